package machine

import (
	"context"
	"errors"
	"iter"
	"strings"

	"kvbus/kv"
)

// watchBuffer is how many events a watch copies out of the ring at a time.
const watchBuffer = 128

// Watch returns the events that opts selects, as [kv.Store.Watch] says. What
// happened before Close comes before [kv.ErrClosed].
func (s *Shared) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	after, err := s.start(opts)
	return func(yield func(kv.Event, error) bool) {
		if err != nil {
			yield(kv.Event{}, err)
			return
		}
		buf := make([]kv.Event, watchBuffer)
		for {
			n, err := s.Next(ctx, after, buf)
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
func (s *Shared) start(opts kv.WatchOptions) (uint64, error) {
	if err := kv.ValidatePrefix(opts.Prefix); err != nil {
		return 0, err
	}
	after, ok := opts.Start.Revision()
	if !ok {
		return s.Revision(), nil
	}
	_, err := s.Events(after, nil)
	return after, err
}
