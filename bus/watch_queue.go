package bus

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// A watchQueue holds what a subscription received until the watch takes it. It
// is bounded: an event that does not fit makes it forget all of them, and the
// watch has to fetch them again.
type watchQueue struct {
	subjects Subjects
	prefix   string
	filter   kv.Filter
	keysOnly bool
	maxCount int
	maxBytes int

	mu         sync.Mutex
	events     []kv.Event
	bytes      int
	since      time.Time // when the first of the events came
	overflowed bool
	beat       Heartbeat
	beatAt     time.Time // zero before the first

	received atomic.Int64 // messages of the subscription that were looked at
	wake     chan struct{}
}

func newWatchQueue(subjects Subjects, opts FollowOptions) *watchQueue {
	return &watchQueue{
		subjects: subjects,
		prefix:   opts.Prefix,
		filter:   opts.Filter,
		keysOnly: opts.KeysOnly,
		maxCount: opts.MaxPending,
		maxBytes: opts.MaxPendingBytes,
		wake:     make(chan struct{}, 1),
	}
}

// receive takes a message of the subscription.
func (q *watchQueue) receive(m *nats.Msg) {
	defer q.received.Add(1)
	key, err := q.subjects.EventKey(m.Subject)
	if err != nil || !strings.HasPrefix(key, q.prefix) || !q.filter.Match(key) {
		return
	}
	body := m.Data
	if q.keysOnly {
		body = nil
	}
	var hs headers
	hs.read(m.Header)
	event, err := hs.event(key, body)
	if err != nil || event.PreviousRevision >= event.Revision {
		return // nothing that the service published
	}
	q.put(event)
}

func (q *watchQueue) put(event kv.Event) {
	size := len(event.Key) + len(event.Value)
	q.mu.Lock()
	first := len(q.events) == 0 && !q.overflowed
	if first {
		q.since = time.Now()
	}
	switch {
	case q.overflowed:
	case len(q.events) > 0 && (len(q.events) == q.maxCount || q.bytes+size > q.maxBytes):
		q.events, q.bytes, q.overflowed = nil, 0, true
	default:
		q.events = append(q.events, event)
		q.bytes += size
	}
	q.mu.Unlock()
	if first {
		q.signal()
	}
}

// keptEvents is for how many events a watch has room however few come.
const keptEvents = 1024

// take returns all events that wait, and when the first of them came, and leaves
// the queue spare, which it gave before, as its next memory. overflowed says that later
// ones are lost.
func (q *watchQueue) take(spare []kv.Event) (events []kv.Event, since time.Time, overflowed bool) {
	if cap(spare) > keptEvents && len(spare) < cap(spare)/4 {
		spare = nil // of a time when the watch was behind
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	events, overflowed = q.events, q.overflowed
	q.events, q.bytes, q.overflowed = spare[:0], 0, false
	return events, q.since, overflowed
}

// drained reports whether nothing waits, and nothing of so many messages that the
// subscription has delivered is on its way.
func (q *watchQueue) drained(delivered int64) bool {
	if q.received.Load() != delivered {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events) == 0 && !q.overflowed
}

// hear takes a heartbeat.
func (q *watchQueue) hear(beat Heartbeat) {
	q.mu.Lock()
	q.beat, q.beatAt = beat, time.Now()
	q.mu.Unlock()
	q.signal()
}

// heard returns the last heartbeat and when it came.
func (q *watchQueue) heard() (Heartbeat, time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.beat, q.beatAt
}

// signal wakes the watch.
func (q *watchQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
