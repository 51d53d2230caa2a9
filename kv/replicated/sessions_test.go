package replicated

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/machine"
)

// Each batch of a worker is applied once, and none before the one that it follows. A
// worker says from which on it still waits for any, as of those before some may never
// come.
func TestBatchesOfAWorker(t *testing.T) {
	s := sessions{}
	for i, tt := range []struct {
		worker       string
		number, base uint64
		want         verdict
	}{
		{"a", 2, 1, outOfOrder},
		{"a", 1, 1, accepted},
		{"a", 1, 1, repeated},
		{"a", 3, 1, outOfOrder},
		{"b", 1, 0, accepted}, // of another count
		{"a", 2, 1, accepted},
		{"a", 1, 1, repeated},
		{"a", 2, 2, repeated},
		{"a", 5, 4, outOfOrder},
		{"a", 5, 5, accepted}, // 3 and 4 are given up
		{"a", 4, 4, repeated},
		{"a", 6, 2, accepted},
		{"c", 7, 7, accepted}, // the first that is seen, or it was forgotten
		{"c", 6, 6, repeated},
		{"d", 7, 6, outOfOrder},
	} {
		before := maps.Clone(s)
		if got := s.judge(&batch{Worker: tt.worker, Number: tt.number, Base: tt.base}, int64(i)); got != tt.want {
			t.Fatalf("batch %d, %+v: verdict %d, want %d", i, tt, got, tt.want)
		}
		if want := (session{tt.worker, tt.number, int64(i)}); tt.want == accepted && s[tt.worker] != want {
			t.Errorf("batch %d: the session is %+v, want %+v", i, s[tt.worker], want)
		} else if tt.want != accepted && !maps.Equal(s, before) {
			t.Errorf("batch %d was not accepted, and the sessions are %+v, before %+v", i, s, before)
		}
	}
}

// Workers that are long gone are forgotten where there are many, when another one comes.
func TestWorkersAreForgotten(t *testing.T) {
	s := sessions{}
	first := func(worker string, now int64) {
		t.Helper()
		if got := s.judge(&batch{Worker: worker, Number: 1}, now); got != accepted {
			t.Fatalf("the first batch of %s: verdict %d", worker, got)
		}
	}
	idle := int64(sessionIdle)
	for i := range sessionsKept - 1 {
		first(fmt.Sprint("w", i), 1)
	}
	first("stays", 2)
	for _, step := range []struct {
		worker string
		now    int64
		want   int
	}{
		{"soon", idle + 1, sessionsKept + 1},
		{"later", idle + 2, 3}, // it, and those that were seen later
		{"few", 9 * idle, 4},
	} {
		first(step.worker, step.now)
		if len(s) != step.want {
			t.Errorf("after the first batch of %s there are %d workers, want %d", step.worker, len(s), step.want)
		}
	}
	if s["stays"].Number != 1 {
		t.Errorf("a worker that was heard of in time is forgotten")
	}
}

// Who comes before a worker is who was heard of since that began, and lately.
func TestPlace(t *testing.T) {
	const minute = int64(sessionRecent)
	s := sessions{}
	for worker, seen := range map[string]int64{"a": 10, "b": 20, "c": 30, "me": 40, "z": 40} {
		s[worker] = session{Worker: worker, Seen: seen}
	}
	for _, tt := range []struct{ begun, later, want int64 }{
		{0, 0, 3}, {10, 0, 3}, {11, 0, 2}, {30, 0, 1}, {31, 0, 0},
		{0, 10 + minute, 3}, {0, 11 + minute, 2}, {0, 31 + minute, 0}, {30, 21 + minute, 1},
	} {
		s["z"] = session{Worker: "z", Seen: max(40, tt.later)}
		if got := s.place("me", tt.begun); got != int(tt.want) {
			t.Errorf("begun at %d, at %d: place %d, want %d", tt.begun, max(40, tt.later), got, tt.want)
		}
	}
}

// A worker waits for another one that is there, and not for one that ended before it
// began: a process that is killed and started again all the time would leave more of
// them than anybody waits for.
func TestWorkerDoesNotWaitForTheDead(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	nc := bustest.Connect(t, s)
	first, err := Open(ctx, nc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Its id is before those of all others.
	heardOf := func(number uint64) {
		t.Helper()
		b := batch{Worker: "!", Number: number, Base: number}
		if _, err := first.js.Publish(ctx, logSubject("kv"), b.append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	heardOf(1)
	first.Close()
	second, err := Open(ctx, nc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	place := func() (place int) {
		t.Helper()
		// A linearizable read has what was appended before.
		if _, err := second.Info(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := second.shared.Update(func(*machine.Machine) { place = second.place() }); err != nil {
			t.Fatal(err)
		}
		return place
	}
	if got := place(); got != 0 {
		t.Errorf("it waits for %d workers that have ended", got)
	}
	heardOf(2)
	if got := place(); got != 1 {
		t.Errorf("it waits for %d workers, want 1", got)
	}
	if _, err := kv.Of(second).Set(ctx, "k", "v"); err != nil || place() != 1 {
		t.Errorf("after a write it waits for %d workers, %v", place(), err)
	}
}

// A worker that began by a clock that was ahead waits for others again once that is set
// back, not when it has caught up.
func TestPlaceAfterTheClockIsSetBack(t *testing.T) {
	s := &Store{id: "me", sessions: sessions{}, shared: machine.Share(machine.New(machine.Options{}))}
	const back = int64(time.Hour)
	for i, tt := range []struct {
		worker string
		at     int64
		want   int
	}{
		{"a", 2*back - 1, 1}, // "me" has not begun
		{"me", 2 * back, 0},
		{"a", back, 0},
		{"me", back + 1, 0},
		{"a", back + 2, 1},
		{"me", back + 3, 1},
	} {
		number := s.sessions[tt.worker].Number + 1
		s.apply(uint64(i+1), tt.at, &batch{Worker: tt.worker, Number: number, Base: number}, 0)
		if got := s.place(); got != tt.want {
			t.Errorf("after batch %d, of %s: place %d, want %d", i, tt.worker, got, tt.want)
		}
	}
}
