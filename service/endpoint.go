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
}

// An endpoint is one subject of an operation.
type endpoint struct {
	lane     *lane
	name     string
	subject  string
	metadata map[string]string
	stats    stats
	sub      *nats.Subscription
	// refusal encodes the answers that don't wait for a worker.
	refusal bus.Encoder
}

func (s *Service) newLane(op bus.Op) *lane {
	l := &lane{
		Service: s,
		op:      op,
		queue:   newQueue(s.opts.MaxPending, s.opts.MaxPendingBytes),
		workers: 1,
	}
	if op.Streams() || op == bus.OpKeys {
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
		start := time.Now()
		for _, r := range batch {
			start = w.serve(r, start)
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
		w.serve(r, time.Now())
	}
}

// subscribe starts to take requests.
func (e *endpoint) subscribe() (err error) {
	e.sub, err = e.lane.nc.QueueSubscribe(e.subject, micro.DefaultQueueGroup, e.receive)
	return err
}

// receive puts a request into the queue. It never waits.
func (e *endpoint) receive(m *nats.Msg) {
	if e.lane.queue.put(request{m, e}) {
		return
	}
	err := fmt.Errorf("%w: %d requests on %v are waiting", kv.ErrOverloaded, e.lane.opts.MaxPending, e.lane.op)
	e.stats.overloaded.Add(1)
	e.stats.answered(0, err.Error())
	e.lane.send(m, e.refusal.Error(err))
}

// drain stops to take requests. Those that were taken are in the queue when
// drained says so.
func (e *endpoint) drain(drained *sync.WaitGroup) {
	if e.sub == nil {
		return
	}
	drained.Add(1)
	done := sync.OnceFunc(drained.Done)
	e.sub.SetClosedHandler(func(string) { done() })
	if err := e.sub.Drain(); err != nil {
		done() // the connection is closed, and the subscription with it
	}
}

// A worker carries out requests one after the other.
type worker struct {
	*lane
	encoder bus.Encoder
}

// serve carries out a request that was taken at start, and returns when it was
// answered.
func (w *worker) serve(r request, start time.Time) time.Time {
	failure := w.attempt(r)
	end := time.Now()
	r.endpoint.stats.answered(end.Sub(start), failure)
	return end
}

// attempt answers a request, and returns the description of its error, empty
// for none.
func (w *worker) attempt(r request) (failure string) {
	defer func() {
		if p := recover(); p != nil {
			w.logger.Error("panic in a request", "subject", r.msg.Subject, "panic", p, "stack", string(debug.Stack()))
			err := fmt.Errorf("%w: panic", kv.ErrInternal)
			failure = w.fail(r.msg, err, w.encoder.Error(err))
		}
	}()
	answer, err := w.handle(r.msg)
	if err != nil {
		return w.fail(r.msg, err, answer)
	}
	if err := w.send(r.msg, answer); err != nil {
		return w.fail(r.msg, err, w.encoder.Error(err))
	}
	return ""
}

// fail sends the answer that tells of err, and returns the description of err.
func (w *worker) fail(m *nats.Msg, err error, answer *nats.Msg) string {
	failure := bus.FailureOf(err)
	if failure.Name == bus.FailureOf(kv.ErrInternal).Name {
		w.logger.Error("request failed", "subject", m.Subject, "error", err)
	}
	if err := w.send(m, answer); err != nil {
		w.logger.Debug("answer not sent", "subject", m.Subject, "error", err)
	}
	return failure.Code + ":" + failure.Description
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
