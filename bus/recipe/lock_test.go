package recipe_test

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kvbus/bus/recipe"
	"kvbus/kv"
)

const ttl = 30 * time.Second

func lock(t *testing.T, store kv.Store) *recipe.Lock {
	t.Helper()
	l, err := recipe.Acquire(t.Context(), store, "lock", recipe.LockOptions{TTL: ttl, Value: "me"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func unlock(t *testing.T, l *recipe.Lock) {
	t.Helper()
	if err := l.Unlock(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLockIsHeldByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { exclude(t, newStore(t), 8, 20) })
}

// exclude has workers take a lock in turns.
func exclude(t *testing.T, store kv.Store, workers, turns int) {
	var holders, last uint64 // no lock but that of the store is for them
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range turns {
				l, err := recipe.Acquire(t.Context(), store, "dir.lock", recipe.LockOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if holders++; holders != 1 {
					t.Errorf("%d hold the lock", holders)
				}
				if token := l.Token(); token <= last {
					t.Errorf("token %d after %d", token, last)
				} else {
					last = token
				}
				holders--
				if err := l.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if last == 0 {
		t.Error("nobody had the lock")
	}
}

func TestLockLastsAsLongAsItIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		l := lock(t, store)
		token := l.Token()
		time.Sleep(10 * ttl)
		if err := l.Err(); err != nil || isLost(l.Lost()) {
			t.Fatal(err)
		}
		if l.Token() != token {
			t.Errorf("the token was %d and is %d", token, l.Token())
		}
		entry, err := store.Get(t.Context(), "lock", kv.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(entry.Value, " me") {
			t.Errorf("the value is %q", entry.Value)
		}
		if renewals := entry.Revision - token; renewals < 29 || renewals > 30 {
			t.Errorf("%d renewals in ten times the TTL", renewals)
		}
		unlock(t, l)
		if isLost(l.Lost()) || !errors.Is(l.Err(), recipe.ErrUnlocked) {
			t.Errorf("after Unlock: %v", l.Err())
		}
		next := lock(t, store)
		if next.Token() <= entry.Revision {
			t.Errorf("the next token is %d, the last revision was %d", next.Token(), entry.Revision)
		}
		unlock(t, next)
	})
}

// The deadline is counted from before the request, whatever time the answer took.
func TestHolderKnowsTheLossAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			time.Sleep(2 * time.Second)
			r, err := store.Store.Do(ctx, cmd)
			time.Sleep(time.Second)
			return r, err
		})
		asked := time.Now()
		l := lock(t, store)
		store.cut()
		<-l.Lost()
		about(t, "the loss", time.Since(asked), ttl-ttl/100)
		if err := l.Err(); !errors.Is(err, recipe.ErrLost) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(ttl / 200)
		if entry, err := store.Store.Get(t.Context(), "lock", kv.ReadOptions{}); err != nil || entry.Revision != l.Token() {
			t.Errorf("the holder did not know first: %v, %v", entry, err)
		}
		if err := l.Unlock(t.Context()); !errors.Is(err, recipe.ErrLost) {
			t.Errorf("unlock: %v", err)
		}
	})
}

func TestLossIsKnownAtTheNextRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kv.Of(newStore(t))
		l := lock(t, store.Store())
		if _, err := store.Set(t.Context(), "lock", "other"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-l.Lost()
		about(t, "the loss", time.Since(began), ttl/3)
		if err := l.Unlock(t.Context()); !errors.Is(err, recipe.ErrLost) {
			t.Errorf("unlock: %v", err)
		}
		if value, err := store.GetText(t.Context(), "lock"); value != "other" {
			t.Errorf("the other's lock is %q, %v", value, err)
		}
	})
}

func TestRenewalIsTriedAgain(t *testing.T) {
	for _, failure := range []error{kv.ErrTimeout, kv.ErrUnavailable, kv.ErrOverloaded} {
		synctest.Test(t, func(t *testing.T) {
			store := &strained{Store: newStore(t)}
			l := lock(t, store)
			for range 10 {
				time.Sleep(ttl / 3)
				store.when(func(context.Context, kv.Command) (kv.Result, error) { return kv.Result{}, failure })
				time.Sleep(ttl / 3)
				store.do.Store(nil)
				time.Sleep(ttl / 3)
			}
			unlock(t, l)
		})
	}
}

// A renewal that comes late changes nothing.
func TestRenewalDoesNotRevive(t *testing.T) {
	for _, other := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := newStore(t)
			holder := &strained{Store: store}
			l := lock(t, holder)
			var late []kv.Command
			holder.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
				late = append(late, cmd)
				<-ctx.Done()
				return kv.Result{}, ctx.Err()
			})
			<-l.Lost()
			time.Sleep(time.Second)
			before := kv.Entry{}
			if other {
				next := lock(t, store)
				defer func() { unlock(t, next) }()
				before, _ = store.Get(t.Context(), "lock", kv.ReadOptions{})
			}
			if len(late) == 0 {
				t.Fatal("there was no renewal")
			}
			for _, cmd := range late {
				if r, err := store.Do(t.Context(), cmd); r.Applied || err != nil {
					t.Errorf("%v %q: %v, %v", cmd.Op, cmd.Value, r, err)
				}
			}
			if after, _ := store.Get(t.Context(), "lock", kv.ReadOptions{}); after != before {
				t.Errorf("%v became %v", before, after)
			}
			holder.do.Store(nil)
			if err := l.Unlock(t.Context()); !errors.Is(err, recipe.ErrLost) {
				t.Errorf("unlock: %v", err)
			}
			if after, _ := store.Get(t.Context(), "lock", kv.ReadOptions{}); after != before {
				t.Errorf("by unlock %v became %v", before, after)
			}
		})
	}
}

// Answers are lost, and everything is done once.
func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		store.dropAnswers(kv.OpCompareAndSwap, 3)
		l := lock(t, store)
		if entry, err := store.Store.Get(t.Context(), "lock", kv.ReadOptions{}); err != nil || entry.Revision != l.Token() || l.Token() != 1 {
			t.Errorf("token %d of %v, %v", l.Token(), entry, err)
		}
		store.dropAnswers(kv.OpCompareAndSwap, 1000)
		time.Sleep(ttl / 2) // some renewals
		store.dropAnswers(kv.OpDelete, 3)
		unlock(t, l)
		unlock(t, l)
		replay, err := store.Replay(t.Context(), kv.ReplayQuery{})
		if err != nil {
			t.Fatal(err)
		}
		events := replay.Events
		for i, event := range events {
			if gone := event.Kind == kv.EventDelete; gone != (i == len(events)-1) {
				t.Errorf("event %d of %d is %v", i, len(events), event.Kind)
			}
		}
		if len(events) < 3 {
			t.Errorf("%d events", len(events))
		}
	})
}

// An answer that comes when the lock is over gives none.
func TestAnswerAfterTheEndOfTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			defer time.Sleep(cmd.TTL - cmd.TTL/100)
			return store.Store.Do(ctx, cmd)
		})
		if l, err := recipe.TryAcquire(t.Context(), store, "lock", recipe.LockOptions{TTL: time.Second}); !errors.Is(err, kv.ErrTimeout) {
			t.Errorf("%v, %v", l, err)
		}
	})
}

// Who has the answer has the lock, also where the time to wait for it ended just then.
func TestAcquireEndsWithTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		ctx, cancel := context.WithCancel(t.Context())
		store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			defer cancel()
			return store.Store.Do(ctx, cmd)
		})
		l, err := recipe.Acquire(ctx, store, "lock", recipe.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		unlock(t, l)
	})
}

// Who gives up without an answer does not keep the lock by accident.
func TestAcquireGivesBackWhatItDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			_, _ = store.Store.Do(ctx, cmd)
			store.do.Store(nil)
			<-ctx.Done()
			return kv.Result{}, ctx.Err()
		})
		if _, err := recipe.Acquire(ctx, store, "lock", recipe.LockOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if info, err := store.Info(t.Context()); info.Revision != 2 || info.Keys != 0 {
			t.Errorf("%+v, %v", info, err)
		}
	})
}

func TestLockOfAClosedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		l := lock(t, store)
		store.Close()
		if err := l.Unlock(t.Context()); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("unlock: %v", err)
		}
		if _, err := recipe.Acquire(t.Context(), store, "lock", recipe.LockOptions{}); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("lock: %v", err)
		}
	})
}

func TestLockRefusesBadArguments(t *testing.T) {
	store := newStore(t)
	for _, tt := range []struct {
		key  string
		ttl  time.Duration
		want error
	}{
		{"lock", time.Millisecond, kv.ErrInvalidArgument},
		{"lock", -1, kv.ErrInvalidArgument},
		{"", 0, kv.ErrInvalidKey},
		{"lock.*", 0, kv.ErrInvalidKey},
	} {
		if _, err := recipe.Acquire(t.Context(), store, tt.key, recipe.LockOptions{TTL: tt.ttl}); !errors.Is(err, tt.want) {
			t.Errorf("%q for %v: %v, want %v", tt.key, tt.ttl, err, tt.want)
		}
	}
}

func TestWithLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		failure := errors.New("failure")
		for _, want := range []error{nil, failure} {
			err := recipe.WithLock(t.Context(), store, "lock", recipe.LockOptions{}, func(ctx context.Context, token uint64) error {
				if entry, err := store.Store.Get(ctx, "lock", kv.ReadOptions{}); err != nil || entry.Revision != token {
					t.Errorf("token %d of %v, %v", token, entry, err)
				}
				return want
			})
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			if info, _ := store.Info(t.Context()); info.Keys != 0 {
				t.Error("the lock is still there")
			}
		}
		for _, failed := range []error{nil, failure} {
			store.do.Store(nil)
			err := recipe.WithLock(t.Context(), store, "lock", recipe.LockOptions{}, func(ctx context.Context, _ uint64) error {
				store.cut()
				<-ctx.Done()
				if err := context.Cause(ctx); !errors.Is(err, recipe.ErrLost) {
					t.Errorf("the cause is %v", err)
				}
				return failed
			})
			if want := cmp.Or(failed, recipe.ErrLost); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			time.Sleep(ttl) // what is left of the lock is over
		}
		// That it can't be given back is no error of what was done with it.
		store.do.Store(nil)
		err := recipe.WithLock(t.Context(), store, "lock", recipe.LockOptions{}, func(context.Context, uint64) error {
			store.cut()
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
