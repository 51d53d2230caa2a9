package replicated

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/machine"
)

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
