package kvtest

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"kvbus/kv"
)

func openModel(_ testing.TB, opts Options) kv.Store { return NewModelStore(opts) }

func TestModelStore(t *testing.T) { Run(t, Config{Open: openModel}) }

// TestDistantStore has the suite pass a store that is right, but does all that
// a store may that is far away.
func TestDistantStore(t *testing.T) {
	Run(t, Config{
		Open: func(t testing.TB, opts Options) kv.Store {
			return planted{
				Store: openModel(t, opts),
			}.distant()
		},
		NoSetLimits: true,
		NoSweep:     true,
		Redelivers:  true,
	})
}

// distant makes a store slow, has it yield events twice, and takes from it what
// is not on the bus.
func (p planted) distant() *planted {
	s := p.Store
	p.get, p.scan, p.replay, p.info = s.Get, s.Scan, s.Replay, s.Info
	p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
		if cmd.Op == kv.OpSetLimits || cmd.Op == kv.OpSweep {
			return kv.Result{}, errors.ErrUnsupported
		}
		time.Sleep(pause)
		return s.Do(ctx, cmd)
	}
	p.watch = func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
		seq := s.Watch(ctx, opts)
		return func(yield func(kv.Event, error) bool) {
			var before kv.Event
			for event, err := range seq {
				if !yield(event, err) || err == nil && (before.Revision > 0 && !yield(before, nil) || !yield(event, nil)) {
					return
				}
				before = event
			}
		}
	}
	return &p
}
