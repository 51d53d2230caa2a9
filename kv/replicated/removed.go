package replicated

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

const (
	// removedCheck is how often a worker that gets no records asks whether there is
	// still a log.
	removedCheck = 2 * time.Second
	// removedAlone is for how long JetStream must say that there is none, and nothing
	// else, before a worker takes the log for removed; removedElsewhere is the same
	// where other servers may have it, of which one that has just come back may not
	// know yet.
	removedAlone     = 3 * time.Second
	removedElsewhere = 30 * time.Second
)

// watchLog stops the store when its log was removed, until ctx ends. Nothing else
// tells that from a JetStream that is away: both are silent where records are asked
// for or appended.
func (s *Store) watchLog(ctx context.Context) {
	patience := removedElsewhere
	if s.opts.Alone {
		patience = removedAlone
	}
	before := s.applied.Load()
	err := untilRemoved(ctx, patience, func() error {
		if applied := s.applied.Load(); applied != before {
			before = applied
			return nil
		}
		_, err := s.logState(ctx)
		return err
	})
	if err != nil {
		s.fail(fmt.Errorf("%w: the log %s was removed: %w", kv.ErrUnavailable, streamName(s.opts.Prefix), err))
	}
}

// untilRemoved asks for a stream until JetStream has said for as long as patience, and
// nothing else meanwhile, that there is none. It returns nil when ctx ends.
func untilRemoved(ctx context.Context, patience time.Duration, ask func() error) error {
	ticker := time.NewTicker(removedCheck)
	defer ticker.Stop()
	var since time.Time // it says so; zero while it does not
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		switch err := ask(); {
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= patience:
			return err
		}
	}
}
