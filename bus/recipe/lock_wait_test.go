package recipe_test

import (
	"context"
	"errors"
	"iter"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kvbus/bus/recipe"
	"kvbus/kv"
)

func TestWaiterHasTheLockWhenItIsFree(t *testing.T) {
	for name, end := range map[string]struct {
		free  func(t *testing.T, l *recipe.Lock, holder *strained)
		after time.Duration
	}{
		"unlocked":      {func(t *testing.T, l *recipe.Lock, _ *strained) { unlock(t, l) }, 0},
		"holder is cut": {func(_ *testing.T, _ *recipe.Lock, holder *strained) { holder.cut() }, ttl},
		"deleted": {func(t *testing.T, _ *recipe.Lock, holder *strained) {
			if _, err := kv.Of(holder.Store).Delete(t.Context(), "lock"); err != nil {
				t.Error(err)
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				holder := &strained{Store: newStore(t)}
				l := lock(t, holder)
				waiter := &strained{Store: holder.Store}
				var waiting sync.WaitGroup
				var next *recipe.Lock
				var had time.Time
				waiting.Go(func() { next, had = lock(t, waiter), time.Now() })
				time.Sleep(10 * ttl) // a renewal is at the same time
				synctest.Wait()
				requests := waiter.requests.Load()
				if requests > 4 {
					t.Errorf("%d requests while waiting", requests)
				}
				freed := time.Now()
				end.free(t, l, holder)
				waiting.Wait()
				about(t, "the lock", had.Sub(freed), end.after)
				if next.Token() <= l.Token() {
					t.Errorf("token %d after %d", next.Token(), l.Token())
				}
				unlock(t, next)
				if err := l.Unlock(t.Context()); end.after > 0 && !errors.Is(err, recipe.ErrLost) {
					t.Errorf("the first holder's unlock: %v", err)
				}
			})
		})
	}
}

// Where no events come, the holder's deadline brings another try.
func TestWaiterNeedsNoEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		holder := &strained{Store: newStore(t)}
		l := lock(t, holder)
		waiter := &strained{Store: holder.Store, watch: func(ctx context.Context, _ kv.WatchOptions) iter.Seq2[kv.Event, error] {
			return func(yield func(kv.Event, error) bool) {
				<-ctx.Done()
				yield(kv.Event{}, ctx.Err())
			}
		}}
		holder.cut()
		began := time.Now()
		next := lock(t, waiter)
		if waited := time.Since(began); waited < ttl || waited > ttl+time.Second {
			t.Errorf("waited %v for a lock of %v", waited, ttl)
		}
		if err := l.Err(); !errors.Is(err, recipe.ErrLost) {
			t.Errorf("the first holder: %v", err)
		}
		unlock(t, next)
		_ = l.Unlock(t.Context()) // it is lost
	})
}

// Who wants a lock for ever, and finds a key that never ends, waits for its event.
func TestWaiterOfTheLongestLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		if _, err := kv.Of(store.Store).Set(t.Context(), "lock", "for ever"); err != nil {
			t.Fatal(err)
		}
		store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			if store.requests.Load() > 10 {
				t.Fatal("it asks again and again")
			}
			return store.Store.Do(ctx, cmd)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := recipe.Acquire(ctx, store, "lock", recipe.LockOptions{TTL: math.MaxInt64})
		if !errors.Is(err, recipe.ErrHeld) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an hour later: %v", err)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		l := lock(t, store)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		_, err := recipe.Acquire(ctx, store, "lock", recipe.LockOptions{})
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, recipe.ErrHeld) {
			t.Errorf("an hour later: %v", err)
		}
		about(t, "the error", time.Since(began), time.Hour)
		if _, err := recipe.TryAcquire(t.Context(), store, "lock", recipe.LockOptions{}); !errors.Is(err, recipe.ErrHeld) {
			t.Errorf("a try: %v", err)
		}
		unlock(t, l)

		away := &strained{Store: store}
		away.when(func(context.Context, kv.Command) (kv.Result, error) { return kv.Result{}, kv.ErrUnavailable })
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began = time.Now()
		_, err = recipe.Acquire(ctx, away, "lock", recipe.LockOptions{})
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("an hour later, without the service: %v", err)
		}
		about(t, "the error", time.Since(began), time.Hour)
	})
}
