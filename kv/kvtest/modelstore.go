package kvtest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"kvbus/kv"
)

var _ kv.Store = (*ModelStore)(nil)

// A ModelStore is a [kv.Store] made of a [Model], a lock and the wall clock:
// slow, never forgetting an event though it acts as if it did, and plain enough
// to be trusted. Close it when done.
type ModelStore struct {
	ring int

	mu      sync.Mutex
	model   *Model
	changed chan struct{} // closed at the next mutation or at Close
	timer   *time.Timer
	closed  bool
}

// NewModelStore returns an empty store. Without a bound on the events for
// replay it holds all of them.
func NewModelStore(opts Options) *ModelStore {
	s := &ModelStore{ring: opts.ReplayEvents, model: NewModel(opts.Limits), changed: make(chan struct{})}
	s.timer = time.AfterFunc(time.Hour, s.tick)
	return s
}

// Do implements [kv.Store].
func (s *ModelStore) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, kv.ReadOptions{}); err != nil {
		return kv.Result{}, err
	}
	defer s.settle(s.model.Revision())
	return s.model.Apply(time.Now().UnixNano(), cmd)
}

// Get implements [kv.Store].
func (s *ModelStore) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, opts); err != nil {
		return kv.Entry{}, err
	}
	if err := kv.ValidateKey(key); err != nil {
		return kv.Entry{}, err
	}
	entry, ok := s.model.Get(time.Now().UnixNano(), key)
	if !ok {
		return kv.Entry{}, kv.ErrNotFound
	}
	return entry, nil
}

// Scan implements [kv.Store].
func (s *ModelStore) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, q.ReadOptions); err != nil {
		return kv.Page{}, err
	}
	return s.model.Scan(time.Now().UnixNano(), q)
}

// Replay implements [kv.Store].
func (s *ModelStore) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, q.ReadOptions); err != nil {
		return kv.Replay{}, err
	}
	return s.model.Replay(q, s.oldest())
}

// Watch implements [kv.Store].
func (s *ModelStore) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	after, err := s.start(ctx, opts)
	return func(yield func(kv.Event, error) bool) {
		if err != nil {
			yield(kv.Event{}, err)
			return
		}
		for {
			event, err := s.next(ctx, after)
			if lag, ok := errors.AsType[*kv.LagError](err); ok {
				after = lag.Last
				if !yield(kv.Event{}, err) {
					return
				}
				continue
			}
			if err != nil {
				yield(kv.Event{}, err)
				return
			}
			after = event.Revision
			if strings.HasPrefix(event.Key, opts.Prefix) && opts.Filter.Match(event.Key) && !yield(event, nil) {
				return
			}
		}
	}
}

// Info implements [kv.Store].
func (s *ModelStore) Info(ctx context.Context) (kv.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, kv.ReadOptions{}); err != nil {
		return kv.Info{}, err
	}
	defer s.settle(s.model.Revision())
	s.model.Expire(time.Now().UnixNano())
	info := s.model.Info()
	info.Store = "model"
	info.OldestRevision = s.oldest()
	return info, nil
}

// Close implements [kv.Store].
func (s *ModelStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.timer.Stop()
		close(s.changed)
	}
	return nil
}

func (s *ModelStore) usable(ctx context.Context, opts kv.ReadOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed {
		return kv.ErrClosed
	}
	if opts.MinRevision > s.model.Revision() {
		return fmt.Errorf("%w: the store is at revision %d, before %d", kv.ErrUnavailable, s.model.Revision(), opts.MinRevision)
	}
	return nil
}

// start returns the revision after which a watch starts.
func (s *ModelStore) start(ctx context.Context, opts kv.WatchOptions) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, kv.ReadOptions{}); err != nil {
		return 0, err
	}
	after, ok := opts.Start.Revision()
	if !ok {
		after = s.model.Revision()
	}
	_, err := s.model.Replay(kv.ReplayQuery{After: after, Prefix: opts.Prefix, Limit: 1}, s.oldest())
	return after, err
}

// next waits for the event after a revision. A [*kv.LagError] says that it is
// no longer held.
func (s *ModelStore) next(ctx context.Context, after uint64) (kv.Event, error) {
	for {
		s.mu.Lock()
		oldest, newest, changed, closed := s.oldest(), s.model.Revision(), s.changed, s.closed
		var event kv.Event
		if after < newest {
			event = s.model.events[after]
		}
		s.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return kv.Event{}, ctx.Err()
		case after+1 < oldest:
			return kv.Event{}, &kv.LagError{First: after + 1, Last: oldest - 1}
		case after < newest:
			return event, nil
		case closed:
			return kv.Event{}, kv.ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// oldest returns the revision of the oldest event that the store admits to.
func (s *ModelStore) oldest() uint64 {
	if n := s.model.Revision(); s.ring > 0 && n > uint64(s.ring) {
		return n - uint64(s.ring) + 1
	}
	return 1
}

// settle does what is due after a change, given the revision from before.
func (s *ModelStore) settle(before uint64) {
	if s.model.Revision() != before {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	if due, ok := s.model.NextDeadline(); ok {
		s.timer.Reset(time.Until(time.Unix(0, due)))
	}
}

// tick is the timer's shot.
func (s *ModelStore) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	defer s.settle(s.model.Revision())
	s.model.Expire(time.Now().UnixNano())
}
