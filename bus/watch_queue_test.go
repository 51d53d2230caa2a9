package bus

import (
	"strings"
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

// A queue holds so many events and so many bytes, and forgets all that it has where one
// more does not fit; one that is larger is held alone.
func TestWatchQueueBounds(t *testing.T) {
	q := newWatchQueue(Subjects{}, FollowOptions{MaxPending: 3, MaxPendingBytes: 10})
	var spare []kv.Event
	for _, tt := range []struct {
		sizes      []int // of the events that come
		held       int
		overflowed bool
	}{
		{nil, 0, false},
		{[]int{4, 3, 3}, 3, false},
		{[]int{4, 3, 4}, 0, true},
		{[]int{1, 1, 1, 1}, 0, true},
		{[]int{4, 7, 1}, 0, true}, // which would fit again
		{[]int{11}, 1, false},
		{[]int{11, 1}, 0, true},
		{[]int{5, 5}, 2, false},
	} {
		for i, size := range tt.sizes {
			q.put(kv.Event{Key: "k", Value: strings.Repeat("v", size-1), Revision: uint64(i + 1)})
		}
		if drained := q.drained(0); drained != (len(tt.sizes) == 0) {
			t.Errorf("%v: nothing waits: %v", tt.sizes, drained)
		}
		events, _, overflowed := q.take(spare)
		if len(events) != tt.held || overflowed != tt.overflowed {
			t.Errorf("%v: %d events are held, overflowed %v; want %d, %v", tt.sizes, len(events), overflowed, tt.held, tt.overflowed)
		}
		spare = events
	}
}
