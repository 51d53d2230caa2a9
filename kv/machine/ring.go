package machine

import (
	"fmt"

	"kvbus/kv"
)

// EventOverhead is what the ring counts for an event beside its key and value,
// in bytes: the size of the event itself.
const EventOverhead = 136

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

	chunks []*[ringChunk]kv.Event // the oldest first
	spare  *[ringChunk]kv.Event   // emptied, to be used again
	first  int                    // index of the oldest event in chunks[0]
	events int
	bytes  int64
}

func newRing(maxEvents int, maxBytes int64) ring {
	return ring{maxEvents: maxEvents, maxBytes: maxBytes}
}

// at returns the event at position i, counted from the oldest.
func (r *ring) at(i int) *kv.Event {
	i += r.first
	return &r.chunks[i/ringChunk][i%ringChunk]
}

// push returns the place of a new event, which is empty; pushed must follow.
func (r *ring) push() *kv.Event {
	if r.first+r.events == len(r.chunks)*ringChunk {
		chunk := r.spare
		if r.spare = nil; chunk == nil {
			chunk = new([ringChunk]kv.Event)
		}
		r.chunks = append(r.chunks, chunk)
	}
	r.events++
	return r.at(r.events - 1)
}

// pushed accounts for the event that was put in the place of the last push, and
// drops old ones that are over the bounds.
func (r *ring) pushed(event *kv.Event) {
	r.bytes += cost(event)
	for r.events > 1 && (r.events > r.maxEvents || r.bytes > r.maxBytes) {
		r.drop()
	}
}

// drop lets go of the oldest event.
func (r *ring) drop() {
	oldest := r.at(0)
	r.bytes -= cost(oldest)
	*oldest = kv.Event{}
	r.events--
	if r.first++; r.first == ringChunk {
		r.spare, r.chunks[0] = r.chunks[0], nil
		r.chunks, r.first = r.chunks[1:], 0
	}
}

func cost(event *kv.Event) int64 {
	return int64(EventOverhead + len(event.Key) + len(event.Value) + len(event.Trace.Parent) + len(event.Trace.State))
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
		event := r.at(first + n)
		if size += cost(event); size > readBytes && n > 0 {
			break
		}
		buf[n] = *event
	}
	return n, nil
}
