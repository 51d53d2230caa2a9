package service

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// A queue holds the requests on one operation that wait for their turn, in the
// order of arrival. It bounds, by number and by bytes, all requests that were
// taken and not yet answered, also those that have left the queue.
type queue struct {
	maxRequests int64
	maxBytes    int64

	outstanding atomic.Int64
	bytes       atomic.Int64

	mu       sync.Mutex
	ready    sync.Cond // there is something to take, or nothing more to come
	requests []request
	closed   bool // nothing is put any more
	ended    bool // all is answered
	answered sync.WaitGroup
}

// A request is a message and the endpoint that it came in by.
type request struct {
	msg      *nats.Msg
	endpoint *endpoint
	start    time.Time // when a worker took it
	progress *progress // from then on
}

// progress is what those who work on a request tell each other.
type progress struct {
	fresh    bool        // the store is fresh enough for it
	finished atomic.Bool // it is answered, or about to be
}

func newQueue(maxRequests, maxBytes int) *queue {
	q := &queue{maxRequests: int64(maxRequests), maxBytes: int64(maxBytes)}
	q.ready.L = &q.mu
	return q
}

// put adds a request; it returns false, at once, if there is no room or the
// queue is closed. A request larger than the bound on bytes fits when it is
// alone. Each request that is put must be released when it is answered.
func (q *queue) put(r request) bool {
	size := int64(r.msg.Size())
	requests, bytes := q.outstanding.Add(1), q.bytes.Add(size)
	if requests > q.maxRequests || requests > 1 && bytes > q.maxBytes {
		q.outstanding.Add(-1)
		q.bytes.Add(-size)
		return false
	}
	q.answered.Add(1)
	q.mu.Lock()
	closed := q.closed
	if !closed {
		q.requests = append(q.requests, r)
		q.ready.Signal()
	}
	q.mu.Unlock()
	if closed {
		q.release(r)
	}
	return !closed
}

// putBack adds a request again that was taken and not released.
func (q *queue) putBack(r request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.requests = append(q.requests, r)
	q.ready.Signal()
}

// release makes room for another request in the place of r.
func (q *queue) release(r request) {
	q.outstanding.Add(-1)
	q.bytes.Add(-int64(r.msg.Size()))
	q.answered.Done()
}

// take waits for requests and returns all of them, in memory that the batch
// taken before gives up. It returns none once all is answered.
//
// Under load it first lets those run that are about to add to the queue: answers and
// events then go through their connections in fewer and larger writes. Where the
// batch before was a single request it waits for nobody.
func (q *queue) take(before []request) []request {
	loaded := len(before) > 1
	clear(before)
	q.mu.Lock()
	q.wait()
	if loaded {
		q.mu.Unlock()
		runtime.Gosched()
		runtime.Gosched()
		q.mu.Lock()
	}
	defer q.mu.Unlock()
	taken := q.requests
	q.requests = before[:0]
	return taken
}

// takeOne waits for a request and returns it, and false once all is answered.
func (q *queue) takeOne() (request, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wait()
	if len(q.requests) == 0 {
		return request{}, false
	}
	r := q.requests[0]
	q.requests[0] = request{}
	q.requests = q.requests[1:]
	return r, true
}

// wait, with mu held, waits until there is something to take, or nothing more to come.
func (q *queue) wait() {
	for len(q.requests) == 0 && !q.ended {
		q.ready.Wait()
	}
}

// drain waits until all requests that were taken are answered, and lets take return
// then.
func (q *queue) drain() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.answered.Wait()
	q.mu.Lock()
	q.ended = true
	q.ready.Broadcast()
	q.mu.Unlock()
}
