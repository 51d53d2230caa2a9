package machine

import (
	"fmt"

	"kvbus/kv"
)

// What the ring counts for an event beside the text of its key, value and trace, in
// bytes: the size of its record, and that of a trace where it has one.
const (
	EventOverhead = 72
	TraceOverhead = 32
)

// readBytes is what a read copies at most, by the same count, unless its first event
// is larger: whoever takes long over a copy holds that much beside the ring.
const readBytes = 1 << 20

// ringChunk is the number of events that are allocated together.
const ringChunk = 1024

// A ring holds the most recent events, bounded by number and bytes; the newest
// one is held whatever its size. As each revision has one event, an event is
// found by its revision.
type ring struct {
	maxEvents int
	maxBytes  int64

	chunks []*[ringChunk]record // the oldest first
	spare  *[ringChunk]record   // emptied, to be used again
	first  int                  // index of the oldest event in chunks[0]
	events int
	bytes  int64
}

// A record is an event in the ring, which is read far less often than it is written,
// and should leave the processor's caches to the keys. Its revision is its place.
type record struct {
	key, value string
	trace      *kv.Trace // nil for none
	previous   uint64
	time       int64 // Unix nanoseconds, as is the deadline
	deadline   int64 // 0 for none
	kind       kv.EventKind
}

// event returns the event of the record that is at a revision.
func (r *record) event(revision uint64) kv.Event {
	event := kv.Event{
		Kind:             r.kind,
		Key:              r.key,
		Value:            r.value,
		Revision:         revision,
		PreviousRevision: r.previous,
		Time:             instant(r.time),
		ExpiresAt:        instant(r.deadline),
	}
	if r.trace != nil {
		event.Trace = *r.trace
	}
	return event
}

func (r *record) cost() int64 {
	size := int64(EventOverhead + len(r.key) + len(r.value))
	if r.trace != nil {
		size += int64(TraceOverhead + len(r.trace.Parent) + len(r.trace.State))
	}
	return size
}

func newRing(maxEvents int, maxBytes int64) ring {
	return ring{maxEvents: maxEvents, maxBytes: maxBytes}
}

// at returns the record at position i, counted from the oldest.
func (r *ring) at(i int) *record {
	i += r.first
	return &r.chunks[i/ringChunk][i%ringChunk]
}

// push returns the record of a new event, which is empty; pushed must follow.
func (r *ring) push() *record {
	if r.first+r.events == len(r.chunks)*ringChunk {
		chunk := r.spare
		if r.spare = nil; chunk == nil {
			chunk = new([ringChunk]record)
		}
		r.chunks = append(r.chunks, chunk)
	}
	r.events++
	return r.at(r.events - 1)
}

// pushed accounts for what was put in the record of the last push, and drops old
// events that are over the bounds.
func (r *ring) pushed(newest *record) {
	r.bytes += newest.cost()
	for r.events > 1 && (r.events > r.maxEvents || r.bytes > r.maxBytes) {
		r.drop()
	}
}

// drop lets go of the oldest event.
func (r *ring) drop() {
	oldest := r.at(0)
	r.bytes -= oldest.cost()
	*oldest = record{}
	r.events--
	if r.first++; r.first == ringChunk {
		r.spare, r.chunks[0] = r.chunks[0], nil
		r.chunks, r.first = r.chunks[1:], 0
	}
}

// oldest returns the revision of the oldest event held, given the newest.
func (r *ring) oldest(revision uint64) uint64 { return revision - uint64(r.events) + 1 }

// read copies what comes after a revision into buf, given the newest one.
func (r *ring) read(after, revision uint64, buf []kv.Event) (int, error) {
	if after > revision {
		return 0, fmt.Errorf("%w: after %d; the store is at %d", kv.ErrCompacted, after, revision)
	}
	oldest := r.oldest(revision)
	if after+1 < oldest {
		return 0, fmt.Errorf("%w: after %d; the oldest event held is %d", kv.ErrCompacted, after, oldest)
	}
	first := int(after + 1 - oldest)
	n, size := 0, int64(0)
	for ; n < min(len(buf), r.events-first); n++ {
		rec := r.at(first + n)
		if size += rec.cost(); size > readBytes && n > 0 {
			break
		}
		buf[n] = rec.event(after + 1 + uint64(n))
	}
	return n, nil
}
