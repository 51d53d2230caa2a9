package replicated

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// limitsTimeout is how long a store that is opened tries to set other limits: for
// longer than an election takes, or the making of room.
const limitsTimeout = 30 * time.Second

// adoptLimits makes the limits of the options those of the shared state.
func (s *Store) adoptLimits(ctx context.Context) error {
	// A server that can't write does not get better by itself.
	ctx, cancel := context.WithTimeout(ctx, limitsTimeout)
	defer cancel()
	return patiently(ctx, s.logger, "set the limits of the store", func() error { return s.setLimits(ctx) })
}

// setLimits is adoptLimits once. It fails with [errNotYet] where the log takes
// nothing now.
func (s *Store) setLimits(ctx context.Context) error {
	var limits kv.Limits
	if _, err := s.shared.Update(func(m *machine.Machine) { limits = m.Info().Limits }); err != nil || limits == s.opts.Limits {
		return err
	}
	s.logger.Info("changing the limits of the store", "from", limits, "to", s.opts.Limits)
	_, err := s.Do(ctx, kv.Command{Op: kv.OpSetLimits, Limits: s.opts.Limits})
	if errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrTimeout) {
		return fmt.Errorf("%w: %w", errNotYet, err)
	}
	return err
}
