package watchbridge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	// confirmTimeout is how long it waits for the answer, which comes after what was
	// published before; that may come with slowest bytes a second.
	confirmTimeout = 5 * time.Second
	slowest        = 64 << 10
	// window is how many bytes may be published and not confirmed: half of them are
	// on their way while the others are confirmed. All else waits behind them where
	// the way is slow, also the requests by which a publisher stays elected.
	window = 256 << 10
	// eventSize is what an event takes beside its key and its value, about.
	eventSize = 256
)

// A session publishes on one connection, and learns what the server has of it.
type session struct {
	*Bridge
	nc      *nats.Conn
	encoder bus.Encoder
	pending chan struct{} // something was published and is to be confirmed
	now     chan struct{} // it is to be confirmed at once

	handed   atomic.Uint64 // bytes that were published
	had      atomic.Uint64 // those of them that the server has
	progress chan struct{} // had was raised
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
	// Closing the connection frees who waits for the server, but not from a write
	// that it does not take: that keeps the connection until it fails.
	closed := context.AfterFunc(ctx, nc.Close)
	defer func() {
		end(nil)
		if closed() {
			nc.Close()
		}
	}()

	b.position.Store(b.confirmed.Load())
	b.mark.Store(nil)
	s := &session{
		Bridge:   b,
		nc:       nc,
		pending:  make(chan struct{}, 1),
		now:      make(chan struct{}, 1),
		progress: make(chan struct{}, 1),
	}
	s.noteRefusals()
	beside.Go(func() { s.confirmAll(ctx, end) })
	pulse := s.startPulse(end)
	beside.Go(func() { pulse.run(ctx) })
	if log, ok := b.source.(Log); ok {
		err = s.publishElected(ctx, log)
	} else {
		err = s.publishAll(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, kv.ErrClosed) {
		if err := s.settle(ctx, 0); err != nil {
			return err
		}
	}
	return err
}

// noteRefusals counts the events that the server refuses to take from this user. It
// tells each by an error beside the connection, and confirms what comes after them.
// Other errors go where they went before.
func (s *session) noteRefusals() {
	// Nothing but the text says which subject it is about.
	event := "Publish to " + strings.TrimSuffix(strconv.Quote(s.opts.Subjects.EventPattern(kv.Filter{})), `>"`)
	others := s.nc.ErrorHandler()
	told := false // the handler is called by one goroutine
	s.nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), event) {
			if others != nil {
				others(nc, sub, err)
			}
			return
		}
		s.lost.Add(1)
		if !told {
			told = true
			s.logger.Error("the server refuses events; watchers see gaps", "error", err)
		}
	})
}

// publishAll publishes what comes after the last confirmed event, until the
// source or the connection fails.
func (s *session) publishAll(ctx context.Context) error {
	for event, err := range s.after(ctx, s.confirmed.Load()) {
		if lag, ok := errors.AsType[*kv.LagError](err); ok {
			if err := s.lose(ctx, lag.First, lag.Last, tooSlow); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := s.publish(ctx, event); err != nil {
			return err
		}
		s.confirmLater()
	}
	return ctx.Err()
}

// publish publishes an event, and waits until there is room for another one in the
// window.
func (s *session) publish(ctx context.Context, event kv.Event) error {
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
	s.handed.Add(eventSize + uint64(len(event.Key)+len(event.Value)))
	return s.settle(ctx, window)
}

// settle waits until no more than so many bytes are without a confirmation. The
// server is asked for one as soon as they are half as many.
func (s *session) settle(ctx context.Context, bytes uint64) error {
	for {
		unconfirmed := s.handed.Load() - s.had.Load()
		if unconfirmed > bytes/2 {
			signal(s.now)
		}
		if unconfirmed <= bytes {
			return nil
		}
		select {
		case <-s.progress:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lose accounts for events that can't be had any more. There is no way back to those
// before them either, so the server must have these first; else the next session
// finds what of them is lost, too.
func (s *session) lose(ctx context.Context, first, last uint64, reason string) error {
	if err := s.settle(ctx, 0); err != nil {
		return err
	}
	s.lost.Add(last - first + 1)
	s.position.Store(last)
	s.raise(last)
	s.logLost(first, last, reason)
	return nil
}

// handOver makes a mark the last record whose events were published; that it was is
// to be confirmed and then acknowledged.
func (s *session) handOver(m *mark) {
	s.mark.Store(m)
	s.handed.Add(1)
	s.confirmLater()
}

// confirmLater lets the confirmer know that there is something to confirm.
func (s *session) confirmLater() { signal(s.pending) }

// signal leaves a mark in c, which holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
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
	pending := s.pending
	var due <-chan time.Time
	for {
		select {
		case <-pending:
			// Nobody listens until then: each event leaves a mark, and would wake this.
			pending, due = nil, time.After(confirmDelay)
			continue
		case <-s.now:
		case <-due:
		case <-broken:
			end(errBroken)
			return
		case <-ctx.Done():
			return
		}
		select {
		case <-s.pending: // what follows confirms that too
		default:
		}
		pending, due = s.pending, nil
		if err := s.confirm(ctx); err != nil {
			end(err)
			return
		}
	}
}

// errBroken ends the session of a connection that broke.
var errBroken = errors.New("the connection broke")

// confirm makes a round trip to the server, which then has all that was
// published before. One goroutine alone does: a question that was lost takes the
// answer to the next one for its own.
func (s *session) confirm(ctx context.Context) error {
	handed := s.handed.Load() // first: the others are of what it counts, or newer
	revision, mark := s.position.Load(), s.mark.Load()
	timeout := confirmTimeout + time.Duration(handed-s.had.Load())*time.Second/slowest
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("the server does not confirm what was published: %w", err)
	}
	if mark != nil && !mark.acknowledged {
		if err := mark.msg.Ack(); err != nil {
			return err
		}
		mark.acknowledged = true
	}
	s.raise(revision)
	s.had.Store(handed)
	signal(s.progress)
	return nil
}
