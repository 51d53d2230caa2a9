package machine

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"kvbus/kv"
)

func TestRingBounds(t *testing.T) {
	tests := []struct {
		name      string
		events    int
		bytes     int64
		value     int
		wantFirst uint64 // oldest revision held of 5000
	}{
		{"by number", 3000, 1 << 30, 10, 2001},
		{"by number within a chunk", 10, 1 << 30, 10, 4991},
		{"by bytes", 1 << 20, 100 * (EventOverhead + 5 + 10), 10, 4901},
		{"newest is held whatever its size", 10, 1, 10, 5000},
		{"all", 5000, 1 << 30, 10, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := New(Options{ReplayEvents: test.events, ReplayBytes: test.bytes})
			for i := range 5000 {
				apply(t, m, kv.Command{Op: kv.OpSet, Key: fmt.Sprintf("k%04d", i), Value: strings.Repeat("v", test.value)})
			}
			if got := m.Info().OldestRevision; got != test.wantFirst {
				t.Fatalf("the oldest revision is %d, want %d", got, test.wantFirst)
			}
			buf := make([]kv.Event, 7)
			next := test.wantFirst
			for next <= 5000 {
				n, err := m.Events(next-1, buf)
				if err != nil || n == 0 {
					t.Fatalf("after %d: %d events, %v", next-1, n, err)
				}
				for _, event := range buf[:n] {
					if event.Revision != next || event.Key != fmt.Sprintf("k%04d", next-1) {
						t.Fatalf("event %d of key %s, want revision %d", event.Revision, event.Key, next)
					}
					next++
				}
			}
			if n, err := m.Events(5000, buf); n != 0 || err != nil {
				t.Errorf("after the last: %d events, %v", n, err)
			}
			for _, after := range []uint64{5001, test.wantFirst - 2} {
				if _, err := m.Events(after, buf); test.wantFirst > 1 && !errors.Is(err, kv.ErrCompacted) {
					t.Errorf("after %d: %v, want ErrCompacted", after, err)
				}
			}
		})
	}
}

// The memory of the ring is bounded by its content, not by its history.
func TestRingReusesChunks(t *testing.T) {
	m := New(Options{ReplayEvents: 10})
	for range 20 * ringChunk {
		apply(t, m, kv.Command{Op: kv.OpSet, Key: "k"})
	}
	if n := len(m.ring.chunks); n > 2 {
		t.Errorf("10 events take %d chunks", n)
	}
}

// A ring without bounds holds what was not forgotten, and no more memory.
func TestForget(t *testing.T) {
	m := New(Options{ReplayEvents: math.MaxInt, ReplayBytes: math.MaxInt64})
	buf := make([]kv.Event, 1)
	const rounds, each = 10, ringChunk/2 + 3
	for round := range uint64(rounds) {
		first := m.Revision() + 1
		for range each {
			apply(t, m, kv.Command{Op: kv.OpSet, Key: "k"})
		}
		if n, err := m.Events(first-1, buf); n != 1 || err != nil || buf[0].Revision != first {
			t.Fatalf("round %d begins with revision %d, %v; want %d", round, buf[0].Revision, err, first)
		}
		m.Forget(first + 9)
		if got := m.Info().OldestRevision; got != first+10 {
			t.Fatalf("after events up to %d were forgotten the oldest is %d", first+9, got)
		}
		m.Forget(first) // again, which changes nothing
		m.Forget(m.Revision())
		if got := m.Info().OldestRevision; got != m.Revision()+1 {
			t.Fatalf("of the events up to %d, all forgotten, %d is held", m.Revision(), got)
		}
		if _, err := m.Events(m.Revision()-1, buf); !errors.Is(err, kv.ErrCompacted) {
			t.Fatalf("an event that was forgotten: %v, want ErrCompacted", err)
		}
	}
	if m.ring.bytes != 0 || len(m.ring.chunks) > 1 {
		t.Errorf("an empty ring has %d bytes in %d chunks", m.ring.bytes, len(m.ring.chunks))
	}
}

// Large events are copied a few at a time, and one that is larger alone.
func TestReadIsBoundedByBytes(t *testing.T) {
	m := New(Options{})
	sizes := []int{readBytes / 3, readBytes / 3, readBytes / 3, 2 * readBytes, 0, 0}
	for _, size := range sizes {
		apply(t, m, kv.Command{Op: kv.OpSet, Key: "k", Value: strings.Repeat("v", size)})
	}
	buf := make([]kv.Event, 10)
	after, got := uint64(0), []int{}
	for after < m.Revision() {
		n, err := m.Events(after, buf)
		if err != nil || n == 0 {
			t.Fatalf("after %d: %d events, %v", after, n, err)
		}
		got, after = append(got, n), buf[n-1].Revision
	}
	if want := []int{2, 1, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("%v bytes are read %v at a time, want %v", sizes, got, want)
	}
}

// A replay ends where the store was when it began, whatever came since: else it
// would go on for as long as others write.
func TestReplayEndsWhereItBegan(t *testing.T) {
	m := New(Options{})
	for range 5 {
		apply(t, m, kv.Command{Op: kv.OpSet, Key: "k"})
	}
	replay, err := Share(m).replay(kv.ReplayQuery{After: 1}, 3)
	if err != nil || len(replay.Events) != 2 || replay.Revision != 3 || replay.More {
		t.Errorf("a replay of a store at revision 3, with two events since: %+v, %v", replay, err)
	}
}
