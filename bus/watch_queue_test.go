package bus

import (
	"testing"

	"kvbus/kv"
)

// A watch that was far behind, and is not any more, gives the memory back that so many
// events took, of both its batches.
func TestWatchQueueShrinks(t *testing.T) {
	const behind = 50_000
	q := newWatchQueue(Subjects{}, FollowOptions{}.withDefaults())
	var events []kv.Event
	revision := uint64(0)
	take := func(n int) {
		t.Helper()
		for range n {
			revision++
			q.put(kv.Event{Revision: revision})
		}
		clear(events)
		var overflowed bool
		events, _, overflowed = q.take(events)
		if overflowed || len(events) != n || n > 0 && events[n-1].Revision != revision {
			t.Fatalf("%d events of %d come, up to revision %d; overflowed: %v", len(events), n, revision, overflowed)
		}
	}
	take(behind)
	take(behind)
	take(behind)
	if n := cap(q.events); n < behind {
		t.Errorf("a watch that stays behind has room for %d events, not for as many again", n)
	}
	for range 4 {
		take(10)
	}
	if n := cap(events) + cap(q.events); n > 2*keptEvents {
		t.Errorf("batches of 10 events take the room of %d", n)
	}
}
