package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
	"kvbus/kv"
)

// maxRelayPending and maxRelayPendingBytes are how many requests on an operation may
// wait to be handed on: half of what nats.go holds, which drops what is beyond.
const (
	maxRelayPending      = nats.DefaultSubPendingMsgsLimit / 2
	maxRelayPendingBytes = nats.DefaultSubPendingBytesLimit / 2
)

// A Relay takes requests in the place of a worker that does not serve yet, or no
// more, and hands them on to the others that serve the same store
// ([Options.Relayed]). They answer whoever asked. It is for a server that keeps the
// requests of its clients to itself: without one they would find nobody.
type Relay struct {
	nc     *nats.Conn
	opts   RelayOptions
	to     bus.Subjects
	closed chan nats.Status
}

// RelayOptions configure a relay. All must be set.
type RelayOptions struct {
	// Subjects are those of the requests.
	Subjects bus.Subjects
	// Interest returns how many subscriptions match a subject. Where a request has
	// no more of them than what nobody asks for, the answer is "unavailable".
	Interest func(subject string) int
	// Logger gets what goes wrong.
	Logger *slog.Logger
}

// StartRelay returns once requests are taken. The connection is the relay's from
// then on, and still the caller's if it fails.
func StartRelay(ctx context.Context, nc *nats.Conn, opts RelayOptions) (*Relay, error) {
	r := &Relay{nc: nc, opts: opts, to: opts.Subjects.Relay(), closed: nc.StatusChanged(nats.CLOSED)}
	for _, op := range bus.Ops() {
		for _, pattern := range opts.Subjects.Patterns(op) {
			if _, err := nc.QueueSubscribe(pattern, micro.DefaultQueueGroup, func(m *nats.Msg) { r.pass(op, m) }); err != nil {
				return nil, fmt.Errorf("subscribe to %s: %w", pattern, err)
			}
		}
	}
	if err := flush(ctx, nc); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return r, nil
}

// Stop takes no more requests, hands on those that were taken and closes the
// connection; if ctx ends earlier, at once.
func (r *Relay) Stop(ctx context.Context) {
	if err := r.nc.Drain(); err == nil {
		select {
		case <-r.closed:
		case <-ctx.Done():
		}
	}
	r.nc.Close()
}

// pass hands a request on, or answers why not, where it may be answered.
func (r *Relay) pass(op bus.Op, m *nats.Msg) {
	err := r.opts.Subjects.ValidateReply(m.Reply)
	if err != nil {
		r.opts.Logger.Debug("request dropped", "subject", m.Subject, "error", err)
		return
	}
	if err = r.handOn(op, m); err == nil || m.Reply == "" {
		return
	}
	answer := new(bus.Encoder).Error(err)
	answer.Subject = m.Reply
	if err := r.nc.PublishMsg(answer); err != nil {
		r.opts.Logger.Debug("answer not sent", "subject", m.Subject, "error", err)
	}
}

// handOn leaves the check of a request to who carries it out, but for what would not
// get there: without a valid key a subject may have any length, and nats-server closes
// a connection for one that is too long.
func (r *Relay) handOn(op bus.Op, m *nats.Msg) error {
	if _, err := r.opts.Subjects.Key(op, m.Subject); err != nil {
		return err
	}
	if err := checkHeaders(m); err != nil {
		return err
	}
	header, err := bus.RelayHeader(m.Header, m.Reply)
	if err != nil {
		return err
	}
	if requests, size, err := m.Sub.Pending(); err == nil && (requests > maxRelayPending || size > maxRelayPendingBytes) {
		return fmt.Errorf("%w: too many requests on %v wait for other workers", kv.ErrOverloaded, op)
	}
	subject := r.opts.Subjects.Rebase(m.Subject, r.to)
	// Who listens to everything takes no request.
	if r.opts.Interest(subject) <= r.opts.Interest(r.to.Unused()) {
		return fmt.Errorf("%w: this worker does not serve, and knows of no other that does", kv.ErrUnavailable)
	}
	err = r.nc.PublishMsg(&nats.Msg{Subject: subject, Header: header, Data: m.Data})
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: the request has %d bytes, the bus carries %d", kv.ErrValueTooLarge, m.Size(), r.nc.MaxPayload())
	case err != nil:
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	}
	return nil
}
