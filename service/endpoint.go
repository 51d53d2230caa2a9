package service

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
	"kvbus/kv"
)

// queryWorkers is the number of workers of an operation that may take long and
// whose requests need no order.
const queryWorkers = 4

// A lane carries out the requests on one operation.
type lane struct {
	*Service
	op        bus.Op
	endpoints []*endpoint
	queue     *queue
	workers   int

	// The store may answer from any goroutine.
	mu      sync.Mutex
	answers bus.Encoder // to requests on a key, and to commands
}

// An endpoint is one subject of an operation.
type endpoint struct {
	lane     *lane
	name     string
	subject  string
	metadata map[string]string
	stats    stats
}

func (s *Service) newLane(op bus.Op) *lane {
	l := &lane{
		Service: s,
		op:      op,
		queue:   newQueue(s.opts.MaxPending, s.opts.MaxPendingBytes),
		workers: 1,
	}
	if op.Scope() != bus.ScopeKey && !op.Writes() {
		l.workers = queryWorkers
	}
	for i, subject := range s.subjects.Patterns(op) {
		name := op.String()
		if i > 0 {
			name += "-prefix"
		}
		l.endpoints = append(l.endpoints, &endpoint{
			lane:    l,
			name:    name,
			subject: subject,
			metadata: map[string]string{
				"description": op.Description(),
				"body":        op.Body(),
				"reply":       op.Reply(),
			},
		})
	}
	return l
}

// start starts the workers.
func (l *lane) start() {
	for range l.workers {
		if l.workers == 1 {
			l.Service.workers.Go(l.work)
		} else {
			l.Service.workers.Go(l.workOneByOne)
		}
	}
}

func (l *lane) work() {
	w := worker{lane: l}
	var batch []request
	for {
		if batch = l.queue.take(batch); len(batch) == 0 {
			return
		}
		for _, r := range batch {
			w.serve(r)
		}
	}
}

func (l *lane) workOneByOne() {
	w := worker{lane: l}
	for {
		r, ok := l.queue.takeOne()
		if !ok {
			return
		}
		w.serve(r)
	}
}

// subscribe starts to take requests, and what is relayed where that is wanted.
func (e *endpoint) subscribe() error {
	requests := &e.lane.requests
	if err := requests.add(e.subject, micro.DefaultQueueGroup, e.receive); err != nil || !e.lane.opts.Relayed {
		return err
	}
	subjects := e.lane.subjects
	relay := subjects.Relay()
	return requests.add(subjects.Rebase(e.subject, relay), micro.DefaultQueueGroup, func(m *nats.Msg) {
		// The headers are such as can be read: the relay has looked.
		e.receive(&nats.Msg{Subject: relay.Rebase(m.Subject, subjects), Reply: m.Reply, Header: m.Header, Data: m.Data})
	})
}

// receive puts a request into the queue. It never waits. Each subscription calls it
// from a goroutine of its own. A request that must not be answered where it asks for
// it is not carried out; the statistics tell of it.
func (e *endpoint) receive(m *nats.Msg) {
	if err := e.lane.subjects.ValidateReply(m.Reply); err != nil {
		e.stats.answered(0, err)
		e.lane.logger.Debug("request dropped", "subject", m.Subject, "error", err)
		return
	}
	if e.lane.queue.put(request{msg: m, endpoint: e}) {
		return
	}
	err := fmt.Errorf("%w: too many requests on %v are waiting", kv.ErrOverloaded, e.lane.op)
	e.stats.overloaded.Add(1)
	e.stats.answered(0, err)
	_ = e.lane.sendLast(m, new(bus.Encoder).Error(err)) // in the log
}

// A worker carries out requests one after the other.
type worker struct {
	*lane
	encoder bus.Encoder
	unused  []progress // of requests to come
}

// serve carries out a request. It is answered when serve returns, or later by a
// store that takes its time.
func (w *worker) serve(r request) {
	w.begin(&r)
	defer w.rescue(r)
	switch {
	case w.op.Writes():
		w.command(r)
	case w.op.Scope() == bus.ScopeKey:
		w.read(r)
	case w.fresh != nil && !r.progress.fresh:
		w.await(r)
	default:
		w.query(r)
	}
}

// begin notes that a request is worked on, unless it was before. The memory for that
// is made for many of them at once.
func (w *worker) begin(r *request) {
	if r.progress != nil {
		return
	}
	if len(w.unused) == 0 {
		w.unused = make([]progress, 256)
	}
	r.start, r.progress = time.Now(), &w.unused[0]
	w.unused = w.unused[1:]
}

// rescue, deferred by each goroutine that works on a request, answers it after a
// panic, which does no more harm. The store's goroutines are among them.
func (l *lane) rescue(r request) {
	p := recover()
	if p == nil {
		return
	}
	l.logger.Error("panic in a request", "subject", r.msg.Subject, "panic", p, "stack", string(debug.Stack()))
	l.fail(r, fmt.Errorf("%w: panic", kv.ErrInternal))
}

// fail finishes a request with an error.
func (l *lane) fail(r request, err error) { l.finish(r, new(bus.Encoder).Error(err), err) }

// finish counts a request and sends the answer, which tells of err unless that is
// nil. Who has the answer finds it counted. It does nothing where that was done: a
// store may panic after it had an answer, and have one after a panic.
func (l *lane) finish(r request, answer *nats.Msg, err error) {
	if r.progress.finished.Swap(true) {
		return
	}
	defer l.queue.release(r)
	r.endpoint.stats.answered(time.Since(r.start), err)
	if sendErr := l.sendLast(r.msg, answer); err == nil && errors.Is(sendErr, kv.ErrValueTooLarge) {
		err = sendErr
		r.endpoint.stats.failed(err)
		_ = l.sendLast(r.msg, new(bus.Encoder).Error(err)) // in the log
	}
	if err != nil && bus.FailureOf(err).Name == bus.FailureOf(kv.ErrInternal).Name {
		l.logger.Error("request failed", "subject", r.msg.Subject, "error", err)
	}
}

// sendLast is send for the last answer to a request, whose failure nobody but
// the log can be told.
func (s *Service) sendLast(m *nats.Msg, answer *nats.Msg) error {
	err := s.send(m, answer)
	if err != nil {
		s.logger.Debug("answer not sent", "subject", m.Subject, "error", err)
	}
	return err
}

// send publishes answer to whoever waits for it, if anybody does.
func (s *Service) send(m *nats.Msg, answer *nats.Msg) error {
	if m.Reply == "" {
		return nil
	}
	answer.Subject = m.Reply
	err := s.nc.PublishMsg(answer)
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("%w: the answer has %d bytes, the bus carries %d", kv.ErrValueTooLarge, len(answer.Data), s.nc.MaxPayload())
	}
	return err
}
