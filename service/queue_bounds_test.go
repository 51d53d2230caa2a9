package service

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// A request takes its place and its bytes until it is released, and gives both back
// then.
func TestQueueHasRoomAgain(t *testing.T) {
	sized := func(size int) request { return request{msg: &nats.Msg{Data: make([]byte, size)}} }
	q := newQueue(3, 100)
	for round := range 3 {
		var taken []request
		for i, tt := range []struct {
			size int
			fits bool
		}{{60, true}, {41, false}, {30, true}, {11, false}, {10, true}, {0, false}} {
			r := sized(tt.size)
			fits := q.put(r)
			if fits != tt.fits {
				t.Errorf("round %d: request %d of %d bytes fits: %v, want %v", round, i, tt.size, fits, tt.fits)
			}
			if fits {
				taken = append(taken, r)
			}
		}
		for _, r := range taken {
			q.release(r)
		}
	}
	large := sized(101)
	if !q.put(large) {
		t.Error("a request that is larger than the bound has no room where it is alone")
	}
	if q.put(sized(0)) {
		t.Error("a request has room beside one that is larger than the bound")
	}
	q.release(large)
	q.drain() // all are released
	if q.put(sized(0)) {
		t.Error("a request has room in a queue that was closed")
	}
	if requests, bytes := q.outstanding.Load(), q.bytes.Load(); requests != 0 || bytes != 0 {
		t.Errorf("%d requests of %d bytes are left; who stops would wait for them", requests, bytes)
	}
}
