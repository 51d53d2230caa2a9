package memory

import (
	"context"
	"errors"
	"iter"
	"strings"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// watchBuffer is how many events a watch copies out of the ring at a time.
const watchBuffer = 128

// Replay implements [kv.Store].
func (s *Store) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	if err := s.readable(ctx, q.ReadOptions); err != nil {
		return kv.Replay{}, err
	}
	if err := kv.ValidatePrefix(q.Prefix); err != nil {
		return kv.Replay{}, err
	}
	return machine.Replay(q, s.machine.Revision(), s.events)
}

// Watch implements [kv.Store]. What happened before Close comes before
// [kv.ErrClosed].
func (s *Store) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	after, err := s.start(opts)
	return func(yield func(kv.Event, error) bool) {
		if err != nil {
			yield(kv.Event{}, err)
			return
		}
		buf := make([]kv.Event, watchBuffer)
		for {
			n, err := s.next(ctx, after, buf)
			if lag, ok := errors.AsType[*kv.LagError](err); ok {
				if !yield(kv.Event{}, lag) {
					return
				}
				after = lag.Last
				continue
			}
			if err != nil {
				yield(kv.Event{}, err)
				return
			}
			for _, event := range buf[:n] {
				after = event.Revision
				if strings.HasPrefix(event.Key, opts.Prefix) && opts.Filter.Match(event.Key) && !yield(event, nil) {
					return
				}
			}
			clear(buf[:n])
		}
	}
}

// start returns the revision after which a watch starts.
func (s *Store) start(opts kv.WatchOptions) (uint64, error) {
	if err := kv.ValidatePrefix(opts.Prefix); err != nil {
		return 0, err
	}
	after, ok := opts.Start.Revision()
	if !ok {
		return s.machine.Revision(), nil
	}
	_, err := s.events(after, nil)
	return after, err
}

// next waits for events after a revision and copies them into buf. It fails
// with a [*kv.LagError] if the ring no longer holds the first of them, with the
// context's error, and with [kv.ErrClosed] once there is nothing more to come.
func (s *Store) next(ctx context.Context, after uint64, buf []kv.Event) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, changed, err := s.poll(after, buf)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// poll is next without the wait: where there is nothing yet, it returns a
// channel that is closed when there may be.
func (s *Store) poll(after uint64, buf []kv.Event) (int, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if oldest := s.machine.Info().OldestRevision; after+1 < oldest {
		return 0, nil, &kv.LagError{First: after + 1, Last: oldest - 1}
	}
	n, err := s.machine.Events(after, buf)
	if n > 0 || err != nil {
		return n, nil, err
	}
	if s.closed.Load() {
		return 0, nil, kv.ErrClosed
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return 0, s.changed, nil
}

// events is [machine.Machine.Events] under the lock.
func (s *Store) events(after uint64, buf []kv.Event) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Events(after, buf)
}
