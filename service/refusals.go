package service

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
)

// probeTimeout is how long what is sent to oneself may take.
const probeTimeout = time.Second

// refusals are of subscriptions that the server took away, or did not take after a
// reconnect: when its operator takes a right from the worker's user, or lowers a limit,
// if only by mistake. It gives none back by itself.
type refusals struct {
	mu    sync.Mutex
	known map[string]bool // subjects, and anySubject; those that were told
	due   map[string]bool // those of them that are not known to be taken again
}

// anySubject stands for a refusal that does not say of what.
const anySubject = ""

// note notes an error of the connection that is the refusal of a subscription. It reports
// whether it is, whether that one is known already, and whether it is the first.
func (r *refusals) note(err error) (refusal, known, first bool) {
	subject := anySubject
	if !errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
		action, of, ok := bus.PermissionViolation(err)
		if !ok || action != bus.ActionSubscription {
			return false, false, false
		}
		subject = of
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[string]bool{}
	}
	if r.due == nil {
		r.due = map[string]bool{}
	}
	known, first = r.known[subject], len(r.known) == 0
	r.known[subject], r.due[subject] = true, true
	return true, known, first
}

// remaining returns what is due.
func (r *refusals) remaining() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.due))
}

// mended reports, once, whether nothing is due any more of what was.
func (r *refusals) mended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.due) > 0 || len(r.known) == 0 {
		return false
	}
	r.known = nil
	return true
}

// made says that all subscriptions are about to be made again.
func (r *refusals) made() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due = nil
}

// noteRefusals notes which subscriptions the server refuses, of whoever uses the
// connection, until release is called. Each is told once; other errors of the connection
// go where they went before.
func (s *Service) noteRefusals() (release func()) {
	others := s.nc.ErrorHandler()
	s.nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		refusal, known, first := s.refusals.note(err)
		if known {
			return
		}
		if others != nil {
			others(nc, sub, err)
		}
		if refusal && first && s.serving.Load() {
			s.logger.Error("the server refuses subscriptions of this worker, which does not get what comes there; it tries them again now and then")
		}
	})
	return func() { s.nc.SetErrorHandler(others) }
}

// renew connects anew where the server takes subscriptions again that it has refused:
// nats.go makes all of them then, also those of a store, and its own for answers. It
// reports whether it does.
func (s *Service) renew(ctx context.Context) (renewed bool, err error) {
	if !s.nc.IsConnected() {
		return false, nil // they are made again with the connection
	}
	if !slices.ContainsFunc(s.refusals.remaining(), func(subject string) bool { return s.isTaken(ctx, subject) }) {
		return false, nil
	}
	s.refusals.made()
	return true, s.nc.ForceReconnect()
}

// isTaken reports whether the server takes a subscription to a subject, or one more of
// any.
func (s *Service) isTaken(ctx context.Context, subject string) bool {
	before := s.nc.LastError()
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(cmp.Or(subject, inbox))
	if err != nil {
		return false
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
	if subject != anySubject {
		return flush(ctx, s.nc) == nil && s.nc.LastError() == before //nolint:errorlint // another error, not another kind
	}
	// The error would be the same one each time.
	if err := s.nc.Publish(inbox, nil); err != nil {
		return false
	}
	_, err = sub.NextMsg(probeTimeout)
	return err == nil
}
