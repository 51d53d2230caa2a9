package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// A request is what a call asks, in one attempt or several.
type request struct {
	msg *nats.Msg
	// harmless says that it may be sent again when it is not known what came of
	// it; for that long after it was sent first, where window is not 0.
	harmless bool
	window   time.Duration
	once     bool // it is never sent again
	// receive takes the next message of the answer and reports whether it was the
	// last. Its error is the answer. begin, if not nil, comes before each attempt.
	receive func(m *nats.Msg) (last bool, err error)
	begin   func()
}

// A fate is what is known of an attempt.
type fate uint8

const (
	// answered: the service has said what it did.
	answered fate = iota
	// refused: nothing was done, and nothing will be.
	refused
	// unknown: it was carried out, or will be, or not.
	unknown
)

var (
	errNoAnswer     = errors.New("no answer")
	errClientClosed = fmt.Errorf("%w: the client", kv.ErrClosed)
)

// attempt sends a request once and waits for the answer.
func (c *Client) attempt(ctx context.Context, r *request, patience time.Duration) (fate, error) {
	if c.isClosed() {
		return refused, errClientClosed
	}
	id, one, err := c.calls.add(r.msg.Subject)
	if err != nil {
		return refused, err
	}
	defer c.calls.remove(id)
	if r.begin != nil {
		r.begin()
	}
	r.msg.Reply = c.calls.reply(id)
	if err := c.nc.PublishMsg(r.msg); err != nil {
		return c.notPublished(r, err)
	}
	var (
		impatient <-chan time.Time
		timer     *time.Timer
		answers   []*nats.Msg
	)
	if r.harmless && !c.opts.NoRetry { // the caller of one that is sent once asks again
		timer = time.NewTimer(patience)
		defer timer.Stop()
		impatient = timer.C
	}
	for {
		select {
		case <-one.wake:
		case <-impatient:
			return unknown, errNoAnswer
		case <-c.closed:
			return unknown, errClientClosed
		case <-ctx.Done():
			return unknown, ctx.Err()
		}
		clear(answers)
		var failure error
		answers, failure = c.calls.take(one, answers)
		for _, m := range answers {
			if last, err := r.receive(m); last || err != nil {
				return fateOf(err), err
			}
		}
		switch {
		case errors.Is(failure, errTooMuch):
			return answered, failure
		case errors.Is(failure, ErrForbidden):
			return refused, failure
		case failure != nil:
			return unknown, failure
		case timer != nil:
			timer.Reset(patience)
		}
	}
}

// fateOf returns what an answer says of the request.
func fateOf(err error) fate {
	switch {
	case err == nil:
		return answered
	case errors.Is(err, kv.ErrTimeout):
		return unknown
	case errors.Is(err, kv.ErrOverloaded), errors.Is(err, kv.ErrUnavailable):
		return refused
	default:
		return answered
	}
}

// notPublished says why a request was not sent.
func (c *Client) notPublished(r *request, err error) (fate, error) {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return refused, fmt.Errorf("%w: the request has %d bytes, this bus carries %d", kv.ErrValueTooLarge, r.msg.Size(), c.nc.MaxPayload())
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return refused, connectionError(err)
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return refused, fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	case errors.Is(err, nats.ErrHeadersNotSupported), errors.Is(err, nats.ErrBadSubject):
		return refused, fmt.Errorf("%w: %w", kv.ErrInternal, err)
	default: // a part of it may have left
		return unknown, fmt.Errorf("%w: %w", errLost, err)
	}
}
