package service

import (
	"sync"

	"github.com/nats-io/nats.go"
)

// A queue holds the requests on one operation that wait for their turn, in the
// order of arrival, bounded by number and by bytes.
type queue struct {
	maxRequests int
	maxBytes    int

	mu       sync.Mutex
	ready    sync.Cond // there is something to take, or the queue was closed
	requests []request
	bytes    int
	closed   bool
}

// A request is a message and the endpoint that it came in by.
type request struct {
	msg      *nats.Msg
	endpoint *endpoint
}

func newQueue(maxRequests, maxBytes int) *queue {
	q := &queue{maxRequests: maxRequests, maxBytes: maxBytes}
	q.ready.L = &q.mu
	return q
}

// put adds a request; it returns false, at once, if there is no room or the
// queue is closed. A request larger than the bound on bytes fits when it is
// alone.
func (q *queue) put(r request) bool {
	size := r.msg.Size()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.requests) >= q.maxRequests || len(q.requests) > 0 && q.bytes+size > q.maxBytes {
		return false
	}
	q.requests = append(q.requests, r)
	q.bytes += size
	q.ready.Signal()
	return true
}

// take waits for requests and returns all of them, in memory that the batch
// taken before gives up. It returns none once the queue is closed and empty.
func (q *queue) take(before []request) []request {
	clear(before)
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.requests) == 0 && !q.closed {
		q.ready.Wait()
	}
	taken := q.requests
	q.requests, q.bytes = before[:0], 0
	return taken
}

// takeOne waits for a request and returns it, and false once the queue is
// closed and empty.
func (q *queue) takeOne() (request, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.requests) == 0 && !q.closed {
		q.ready.Wait()
	}
	if len(q.requests) == 0 {
		return request{}, false
	}
	r := q.requests[0]
	q.requests[0] = request{}
	q.requests = q.requests[1:]
	q.bytes -= r.msg.Size()
	return r, true
}

// close lets take return once the queue is empty.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ready.Broadcast()
}
