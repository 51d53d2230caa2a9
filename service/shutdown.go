package service

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// lastMoment is how long a service that has nothing more to do may take to end.
const lastMoment = 500 * time.Millisecond

// Stop takes no more requests, answers those that were taken, and returns then.
// If ctx ends earlier, its error is returned where something is not yet answered,
// which may stay so. Where the connection is away, or is lost meanwhile, what was
// taken is carried out and Stop returns without its answers being sent. Stop must
// be called once at most.
func (s *Service) Stop(ctx context.Context) error {
	// Where the server takes nothing, a write holds up all who do anything with the
	// connection.
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(ctx) }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	// What was answered just then is still being noticed.
	select {
	case err := <-stopped:
		return err
	case <-time.After(lastMoment):
	}
	if s.idle() {
		return nil
	}
	return fmt.Errorf("requests are still unanswered: %w", ctx.Err())
}

// stop is Stop, which waits for it no longer than ctx says, and returns when all is
// answered.
func (s *Service) stop(ctx context.Context) error {
	defer s.release()
	connected, release := whileConnected(ctx, s.nc)
	defer release()

	s.discovery.control.drop()
	end := (*nats.Subscription).Drain
	if connected.Err() != nil {
		end = (*nats.Subscription).Unsubscribe
	}
	var drained sync.WaitGroup
	s.requests.end(end, &drained)
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
		s.requests.drop()
		<-done
	}

	// A slow server has as long as the caller gives it.
	patient, cancel := context.WithTimeout(connected, math.MaxInt64) // nats.go wants some deadline
	defer cancel()
	err := s.nc.FlushWithContext(patient)
	// Where it is too late to ask the server whether it has the answers, they leave
	// at the latest when the connection is closed.
	if err != nil && connected.Err() == nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("send the last answers: %w", err)
	}
	return nil
}

// idle reports whether all requests that were taken are answered.
func (s *Service) idle() bool {
	return !slices.ContainsFunc(s.lanes, func(l *lane) bool { return l.queue.outstanding.Load() > 0 })
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
