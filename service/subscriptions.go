package service

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
)

// subscriptions are those of a connection that begin and end together.
type subscriptions struct {
	nc   *nats.Conn
	subs []*nats.Subscription
}

// add subscribes to a subject, in a queue group unless that is empty.
func (s *subscriptions) add(subject, queue string, take nats.MsgHandler) error {
	sub, err := s.nc.QueueSubscribe(subject, queue, take)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	s.subs = append(s.subs, sub)
	return nil
}

// end ends the subscriptions, by a drain or at once. What they have taken is handled
// when ended says so.
func (s *subscriptions) end(by func(*nats.Subscription) error, ended *sync.WaitGroup) {
	for _, sub := range s.subs {
		ended.Add(1)
		done := sync.OnceFunc(ended.Done)
		sub.SetClosedHandler(func(string) { done() })
		if err := by(sub); err != nil {
			done() // the connection is closed, and the subscription with it
		}
	}
}

// drop ends the subscriptions at once, also in the middle of a drain.
func (s *subscriptions) drop() {
	for _, sub := range s.subs {
		_ = sub.Unsubscribe() // fails only if the connection is gone already
	}
}

// confirm makes a round trip to the server, which tells what it has refused before it
// answers. It fails if there is something since the last error of the connection was
// before: a subscription, or to publish on one of own subjects. Others are those of
// answers, which whoever makes a request chooses.
func confirm(ctx context.Context, nc *nats.Conn, before error, own func(subject string) bool) error {
	if err := flush(ctx, nc); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	last := nc.LastError()
	if errors.Is(last, nats.ErrMaxSubscriptionsExceeded) { // the same one each time
		return fmt.Errorf("this worker needs more subscriptions than the server lets a connection have: %w", last)
	}
	if last == before || !errors.Is(last, nats.ErrPermissionViolation) { //nolint:errorlint // another error, not another kind
		return nil
	}
	if action, subject, ok := bus.PermissionViolation(last); ok && action == bus.ActionPublish && !own(subject) {
		return nil
	}
	return fmt.Errorf("the user of this worker lacks a right that it needs: %w", last)
}
