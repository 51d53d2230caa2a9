package recipe_test

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"kvbus/kv"
	"kvbus/kv/memory"
)

// newStore returns a store in memory. Inside a bubble its clock is that of the
// bubble.
func newStore(t testing.TB) *memory.Store {
	store := memory.New(memory.Options{})
	t.Cleanup(func() { store.Close() })
	return store
}

// A strained store is one that is hard to reach: what each of its functions does
// is up to the test, where it is not nil.
type strained struct {
	kv.Store
	do       atomic.Pointer[func(ctx context.Context, cmd kv.Command) (kv.Result, error)]
	get      func(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error)
	watch    func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error]
	requests atomic.Int64
}

func (s *strained) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	s.requests.Add(1)
	if do := s.do.Load(); do != nil {
		return (*do)(ctx, cmd)
	}
	return s.Store.Do(ctx, cmd)
}

func (s *strained) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	s.requests.Add(1)
	if s.get != nil {
		return s.get(ctx, key, opts)
	}
	return s.Store.Get(ctx, key, opts)
}

func (s *strained) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	s.requests.Add(1)
	if s.watch != nil {
		return s.watch(ctx, opts)
	}
	return s.Store.Watch(ctx, opts)
}

// when has the store do f from now on.
func (s *strained) when(f func(ctx context.Context, cmd kv.Command) (kv.Result, error)) {
	s.do.Store(&f)
}

// cut has the store answer nothing any more.
func (s *strained) cut() {
	s.when(func(ctx context.Context, _ kv.Command) (kv.Result, error) {
		<-ctx.Done()
		return kv.Result{}, ctx.Err()
	})
}

// dropAnswers has the store carry out the next n commands of one operation, and
// not tell.
func (s *strained) dropAnswers(op kv.Op, n int64) {
	var dropped atomic.Int64
	s.when(func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
		r, err := s.Store.Do(ctx, cmd)
		if cmd.Op == op && dropped.Add(1) <= n {
			return kv.Result{}, kv.ErrTimeout
		}
		return r, err
	})
}

func isLost(lost <-chan struct{}) bool {
	select {
	case <-lost:
		return true
	default:
		return false
	}
}

// about fails the test unless d is want, or up to a thousandth more.
func about(t *testing.T, what string, d, want time.Duration) {
	t.Helper()
	if d < want || d > want+want/1000+time.Millisecond {
		t.Errorf("%s after %v, want %v", what, d, want)
	}
}
