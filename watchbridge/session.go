package watchbridge

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/kv"
)

const (
	// confirmDelay is how long after a publication the bridge asks the server
	// for a confirmation: the time in which more of them gather behind one
	// round trip.
	confirmDelay = 50 * time.Millisecond
	// confirmTimeout is how long it waits for the answer.
	confirmTimeout = 5 * time.Second
)

// A session publishes on one connection, and learns what the server has of it.
type session struct {
	*Bridge
	nc      *nats.Conn
	encoder bus.Encoder
	pending chan struct{} // something was published and is to be confirmed
}

// session publishes on one connection until that breaks, or the source ends,
// which is [kv.ErrClosed].
func (b *Bridge) session(ctx context.Context) error {
	nc, err := b.dial(ctx)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	// Closing the connection frees a publication that is stuck in it.
	closed := context.AfterFunc(ctx, nc.Close)
	defer func() {
		end(nil)
		if closed() {
			nc.Close()
		}
	}()

	b.position.Store(b.confirmed.Load())
	b.mark.Store(nil)
	s := &session{Bridge: b, nc: nc, pending: make(chan struct{}, 1)}
	beside.Go(func() { s.confirmAll(ctx, end) })
	pulse := b.startPulse(nc)
	beside.Go(func() { pulse.run(ctx) })
	if log, ok := b.source.(Log); ok {
		err = s.publishElected(ctx, log)
	} else {
		err = s.publishAll(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, kv.ErrClosed) && b.confirmed.Load() != b.position.Load() {
		if err := s.confirm(ctx); err != nil {
			return err
		}
	}
	return err
}

// publishAll publishes what comes after the last confirmed event, until the
// source or the connection fails.
func (s *session) publishAll(ctx context.Context) error {
	for event, err := range s.source.Watch(ctx, kv.WatchOptions{Start: kv.After(s.confirmed.Load())}) {
		if lag, ok := errors.AsType[*kv.LagError](err); ok {
			s.lose(lag.First, lag.Last, tooSlow)
			continue
		}
		if errors.Is(err, kv.ErrCompacted) {
			return s.skip(ctx)
		}
		if err != nil {
			return err
		}
		if err := s.publish(event); err != nil {
			return err
		}
		s.confirmLater()
	}
	return ctx.Err()
}

func (s *session) publish(event kv.Event) error {
	switch err := s.nc.PublishMsg(s.encoder.Event(s.opts.Subjects, event)); {
	case errors.Is(err, nats.ErrMaxPayload):
		s.lost.Add(1)
		s.logLost(event.Revision, event.Revision, "the event is larger than what the bus carries")
	case err != nil:
		return err
	default:
		s.published.Add(1)
	}
	s.position.Store(event.Revision)
	return nil
}

// confirmLater lets the confirmer know that there is something to confirm.
func (s *session) confirmLater() {
	select {
	case s.pending <- struct{}{}:
	default:
	}
}

// confirmAll asks the server, from time to time, whether it has what was
// published, and ends the session when it can't be known.
func (s *session) confirmAll(ctx context.Context, end context.CancelCauseFunc) {
	broken := s.nc.StatusChanged(nats.CLOSED)
	if s.nc.IsClosed() { // before anybody could be told
		end(errBroken)
		return
	}
	var due <-chan time.Time
	for {
		select {
		case <-s.pending:
			if due == nil {
				due = time.After(confirmDelay)
			}
		case <-due:
			due = nil
			if err := s.confirm(ctx); err != nil {
				end(err)
				return
			}
		case <-broken:
			end(errBroken)
			return
		case <-ctx.Done():
			return
		}
	}
}

// errBroken ends the session of a connection that broke.
var errBroken = errors.New("the connection broke")

// confirm makes a round trip to the server, which then has all that was
// published before.
func (s *session) confirm(ctx context.Context) error {
	revision, mark := s.position.Load(), s.mark.Load()
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if err := s.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	if mark != nil && !mark.acknowledged.Swap(true) {
		if err := mark.msg.Ack(); err != nil {
			return err
		}
	}
	s.raise(revision)
	return nil
}
