package recipe_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kvbus/bus/recipe"
	"kvbus/kv"
)

// The first request of Unlock gets no answer, and then the service is away.
func TestUnlockAfterAnAbsence(t *testing.T) {
	const remembered, forgotten = 30 * time.Second, 3 * time.Minute
	removed := kv.Command{Op: kv.OpDelete, Key: "lock"}
	taken := kv.Command{Op: kv.OpSet, Key: "lock", Value: "other"}
	for name, tt := range map[string]struct {
		before  kv.Command // by somebody else; zero for none
		arrives bool       // the first request
		away    time.Duration
		want    error
	}{
		"given back":                 {arrives: true, away: remembered},
		"given back long ago":        {arrives: true, away: forgotten},
		"not heard":                  {away: remembered},
		"not heard for long":         {away: forgotten},
		"removed":                    {before: removed, away: remembered, want: recipe.ErrLost},
		"removed, and refused":       {before: removed, arrives: true, away: remembered, want: recipe.ErrLost},
		"taken":                      {before: taken, away: remembered, want: recipe.ErrLost},
		"taken, and refused":         {before: taken, arrives: true, away: remembered, want: recipe.ErrLost},
		"taken, which can't be told": {before: taken, arrives: true, away: forgotten},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &strained{Store: newStore(t)}
				l, err := recipe.Acquire(t.Context(), store, "lock", recipe.LockOptions{TTL: 10 * time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				if tt.before.Op != 0 {
					if _, err := store.Do(t.Context(), tt.before); err != nil {
						t.Fatal(err)
					}
				}
				back := time.Now().Add(tt.away)
				store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
					if tt.arrives {
						_, _ = store.Store.Do(ctx, cmd)
					}
					store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
						if time.Now().Before(back) {
							return kv.Result{}, kv.ErrUnavailable
						}
						return store.Store.Do(ctx, cmd)
					})
					return kv.Result{}, kv.ErrTimeout
				})
				for range 2 {
					if err := l.Unlock(t.Context()); !errors.Is(err, tt.want) {
						t.Errorf("unlock: %v, want %v", err, tt.want)
					}
				}
				if value, err := kv.Of(store).GetText(t.Context(), "lock"); value != tt.before.Value {
					t.Errorf("the lock is %q, %v, want %q", value, err, tt.before.Value)
				}
			})
		})
	}
}

// The connection is lost before Unlock: no request was ever sent, which the client says.
// Meanwhile the lock is removed by somebody else.
func TestUnlockThatWasNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		l, err := recipe.Acquire(t.Context(), store, "lock", recipe.LockOptions{TTL: 10 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Of(store.Store).Delete(t.Context(), "lock"); err != nil {
			t.Fatal(err)
		}
		back := time.Now().Add(2 * time.Minute)
		store.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			if time.Now().Before(back) {
				<-ctx.Done() // as without a connection
				return kv.Result{}, fmt.Errorf("%w: %w: no connection", kv.ErrUnavailable, ctx.Err())
			}
			return store.Store.Do(ctx, cmd)
		})
		if err := l.Unlock(t.Context()); !errors.Is(err, recipe.ErrLost) {
			t.Errorf("unlock: %v, want ErrLost", err)
		}
	})
}

// No renewal was answered, and the service answers reads from what a worker has, unless
// they ask for more: that worker does not know of the lock yet.
func TestUnlockWhereReadsAreEventual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &strained{Store: newStore(t)}
		l := lock(t, store)
		store.get = func(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
			if opts.Consistency != kv.Linearizable {
				return kv.Entry{}, kv.ErrNotFound
			}
			return store.Store.Get(ctx, key, opts)
		}
		store.dropAnswers(kv.OpCompareAndSwap, 1000)
		time.Sleep(ttl / 2) // a renewal
		unlock(t, l)
		if entry, err := store.Store.Get(t.Context(), "lock", kv.ReadOptions{}); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("the lock is there: %+v, %v", entry, err)
		}
	})
}
