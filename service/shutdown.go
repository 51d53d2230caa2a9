package service

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
)

// Stop takes no more requests, answers those that were taken, and returns then.
// If ctx ends earlier, its error is returned, and what is not yet answered may
// stay so. Where the connection is away, or is lost meanwhile, what was taken is
// carried out and Stop returns without its answers being sent. Stop must be
// called once at most.
func (s *Service) Stop(ctx context.Context) error {
	connected, release := whileConnected(ctx, s.nc)
	defer release()

	s.discovery.close()
	end := (*nats.Subscription).Drain
	if connected.Err() != nil {
		end = (*nats.Subscription).Unsubscribe
	}
	var drained sync.WaitGroup
	for _, e := range s.discovery.endpoints {
		e.end(end, &drained)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		drained.Wait()
		for _, l := range s.lanes {
			l.queue.drain()
		}
		s.workers.Wait()
	}()
	select {
	case <-done:
	case <-connected.Done():
		// A drain waits for the server to say that nothing more comes.
		for _, e := range s.discovery.endpoints {
			e.drop()
		}
		select {
		case <-done:
		case <-ctx.Done():
			if n := s.unanswered(); n > 0 {
				return fmt.Errorf("%d requests are still unanswered: %w", n, ctx.Err())
			}
			return nil
		}
	}

	err := flush(connected, s.nc)
	lost := errors.Is(err, nats.ErrConnectionClosed) || connected.Err() != nil && ctx.Err() == nil
	if err != nil && !lost {
		return fmt.Errorf("send the last answers: %w", err)
	}
	return nil
}

// unanswered returns how many requests were taken and not yet answered.
func (s *Service) unanswered() (n int64) {
	for _, l := range s.lanes {
		n += l.queue.outstanding.Load()
	}
	return n
}

// whileConnected returns a context that ends with ctx, and earlier if nc is away
// or is lost. Release must be called.
func whileConnected(ctx context.Context, nc *nats.Conn) (connected context.Context, release func()) {
	connected, cancel := context.WithCancel(ctx)
	away := nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	if !nc.IsConnected() {
		cancel()
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-away:
			cancel()
		case <-connected.Done():
		}
		nc.RemoveStatusListener(away)
	})
	return connected, func() {
		cancel()
		watch.Wait()
	}
}
