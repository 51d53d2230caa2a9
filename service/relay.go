package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
	"kvbus/kv"
)

const (
	// maxRelayPending and maxRelayPendingBytes are how many requests on an operation
	// may wait to be handed on: half of what nats.go holds, which drops what is beyond.
	maxRelayPending      = nats.DefaultSubPendingMsgsLimit / 2
	maxRelayPendingBytes = nats.DefaultSubPendingBytesLimit / 2
	// maxRelayed is how many requests may wait for the answers of others, and
	// relayPatience how long one counts: who asked has given up by then.
	maxRelayed    = 65_536
	relayPatience = 30 * time.Second
)

// A Relay takes requests in the place of a worker that does not serve yet, or no
// more, and hands them on to the others that serve the same store
// ([Options.Relayed]), and the answers back. It is for a server that keeps the
// requests of its clients to itself: without one they would find nobody.
type Relay struct {
	nc       *nats.Conn
	opts     RelayOptions
	to       bus.Subjects
	inbox    string
	requests subscriptions

	mu       sync.Mutex
	awaited  map[string]relayed // by the subjects of the answers
	last     uint64             // the number in the last of these subjects
	answered chan struct{}      // closed when nothing is awaited, once that is waited for
}

// relayed is a request that others carry out.
type relayed struct {
	op    bus.Op
	reply string
	since time.Time
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
	r := &Relay{
		nc: nc, opts: opts, to: opts.Subjects.Relay(), inbox: nc.NewInbox(),
		requests: subscriptions{nc: nc}, awaited: map[string]relayed{},
	}
	before := nc.LastError()
	if _, err := nc.Subscribe(r.inbox+".*", r.passBack); err != nil {
		return nil, fmt.Errorf("subscribe to %s.*: %w", r.inbox, err)
	}
	for _, op := range bus.Ops() {
		for _, pattern := range opts.Subjects.Patterns(op) {
			if err := r.requests.add(pattern, micro.DefaultQueueGroup, func(m *nats.Msg) { r.pass(op, m) }); err != nil {
				return nil, err
			}
		}
	}
	own := func(subject string) bool { return opts.Subjects.ValidateReply(subject) != nil }
	if err := confirm(ctx, nc, before, own); err != nil {
		return nil, err
	}
	return r, nil
}

// Stop takes no more requests, hands on those that were taken, waits for their
// answers and closes the connection; if ctx ends earlier, at once.
func (r *Relay) Stop(ctx context.Context) {
	defer r.nc.Close()
	if err := r.drain(ctx); err == nil {
		_ = flush(ctx, r.nc) // the last answers; nobody could be told
	}
}

func (r *Relay) drain(ctx context.Context) error {
	var taken sync.WaitGroup
	r.requests.end((*nats.Subscription).Drain, &taken)
	passed := make(chan struct{})
	go func() { taken.Wait(); close(passed) }()
	select {
	case <-passed:
	case <-ctx.Done():
		return ctx.Err()
	}
	answered := make(chan struct{})
	r.mu.Lock()
	r.answered = answered
	r.settle()
	r.mu.Unlock()
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle tells who waits for it that nothing is awaited any more. The lock is held.
func (r *Relay) settle() {
	if r.answered != nil && len(r.awaited) == 0 {
		close(r.answered)
		r.answered = nil
	}
}

// pass hands a request on, or answers why not, where it may be answered.
func (r *Relay) pass(op bus.Op, m *nats.Msg) {
	err := r.opts.Subjects.ValidateReply(m.Reply)
	if err != nil {
		r.opts.Logger.Debug("request dropped", "subject", m.Subject, "error", err)
		return
	}
	if err = r.handOn(op, m); err != nil && m.Reply != "" {
		r.answer(m.Reply, new(bus.Encoder).Error(err))
	}
}

// handOn leaves the check of a request to who carries it out, but for headers that
// nats.go would not send as they are, and for what would not get there: without a
// valid key a subject may have any length, and nats-server closes a connection for
// one that is too long.
func (r *Relay) handOn(op bus.Op, m *nats.Msg) error {
	if _, err := r.opts.Subjects.Key(op, m.Subject); err != nil {
		return err
	}
	if err := checkHeaders(m); err != nil {
		return err
	}
	header, err := bus.RelayHeader(op, m.Header)
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
	reply, err := r.await(op, m.Reply)
	if err != nil {
		return err
	}
	err = r.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Header: header, Data: m.Data})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		err = fmt.Errorf("%w: the request has %d bytes, the bus carries %d", kv.ErrValueTooLarge, m.Size(), r.nc.MaxPayload())
	default:
		err = fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	}
	r.forget(reply)
	return err
}

// await returns the subject on which the answer to a request may come that is to be
// passed back to reply.
func (r *Relay) await(op bus.Op, reply string) (string, error) {
	if reply == "" {
		return "", nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if len(r.awaited) >= maxRelayed {
		maps.DeleteFunc(r.awaited, func(_ string, request relayed) bool { return now.Sub(request.since) > relayPatience })
	}
	if len(r.awaited) >= maxRelayed {
		return "", fmt.Errorf("%w: %d requests wait for the answers of other workers", kv.ErrOverloaded, len(r.awaited))
	}
	r.last++
	subject := fmt.Sprintf("%s.%d", r.inbox, r.last)
	r.awaited[subject] = relayed{op, reply, now}
	return subject, nil
}

func (r *Relay) forget(subject string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.awaited, subject)
	r.settle()
}

// passBack hands an answer back to who asked.
func (r *Relay) passBack(m *nats.Msg) {
	r.mu.Lock()
	request, awaited := r.awaited[m.Subject]
	r.mu.Unlock()
	if !awaited {
		return
	}
	failure := bus.DecodeError(m.Header)
	answer := &nats.Msg{Header: m.Header, Data: m.Data}
	if m.Header.Get("Status") != "" { // nats-server says that nobody is there any more
		answer = new(bus.Encoder).Error(failure)
	}
	r.answer(request.reply, answer)
	if failure != nil || !request.op.Streams() || m.Header.Get(bus.HeaderEnd) != "" {
		r.forget(m.Subject)
	}
}

func (r *Relay) answer(reply string, m *nats.Msg) {
	m.Subject = reply
	if err := r.nc.PublishMsg(m); err != nil {
		r.opts.Logger.Debug("answer not sent", "error", err)
	}
}
