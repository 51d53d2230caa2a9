package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
)

// The server is killed and started again: a worker goes on with what it has.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	w := serveOn(t, s.url)

	back := make(chan struct{}, 1)
	client := connect(t, s.url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	events := subscribe(t, client, "kv.events.>")
	if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
		t.Fatalf("set answers %q", got)
	}
	if got := next(t, events); string(got.Data) != "blue" {
		t.Fatalf("the event is %q", got.Data)
	}

	s.kill()
	w.awaitLog(t, "disconnected from NATS")
	s.start(t)
	select {
	case <-back:
	case <-time.After(patience):
		t.Fatal("the client of the test is not connected again")
	}
	w.awaitLog(t, "reconnected to NATS")
	// The worker may be new to the server in spite of what it has logged.
	if got := request(t, client, nats.NewMsg("kv.get.color")); string(got.Data) != "blue" {
		t.Errorf("after the restart the value is %q; want blue", got.Data)
	}
	if got := mustAsk(t, client, "kv.set.color", "green"); got != "2" {
		t.Errorf("after the restart set answers %q; want 2", got)
	}
	// The event of before may come once more.
	event := next(t, events)
	if event.Header.Get(bus.HeaderRevision) == "1" {
		event = next(t, events)
	}
	if got := event.Header.Get(bus.HeaderRevision); got != "2" || string(event.Data) != "green" {
		t.Errorf("after the restart the event is %q of revision %s; want green of 2", event.Data, got)
	}
	w.terminate(t)
}

func TestWorkerWaitsForServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, "")
	w := startWorker(t, nil, "--nats-url", s.url)
	w.awaitLog(t, "waiting for NATS")
	s.start(t)
	w.awaitLog(t, "serving")
	client := connect(t, s.url)
	if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
		t.Errorf("set answers %q; want 1", got)
	}
}

func TestWorkerStopsWhileItWaits(t *testing.T) {
	t.Parallel()
	w := startWorker(t, nil, "--nats-url", "nats://"+bustest.FreeAddress(t))
	w.awaitLog(t, "waiting for NATS")
	w.terminate(t)
}

// A message of the server's carries less than the store would take.
func TestSmallMaxPayload(t *testing.T) {
	t.Parallel()
	s := startServer(t, "max_payload: 65536")
	serveOn(t, s.url)
	client := connect(t, s.url)

	reply := request(t, client, nats.NewMsg("kv.info"))
	info, err := bus.DecodeInfo(reply)
	if err != nil {
		t.Fatal(err)
	}
	limit := info.MaxValueSize
	if limit < 32<<10 || limit >= 64<<10 {
		t.Fatalf("kv.info says that values may have %d bytes; want somewhat less than 64 KiB", limit)
	}
	if got := mustAsk(t, client, "kv.set.large", strings.Repeat("x", int(limit))); got != "1" {
		t.Errorf("set of the largest value answers %q; want 1", got)
	}
	if got := mustAsk(t, client, "kv.get.large", ""); len(got) != int(limit) {
		t.Errorf("get of the largest value answers %d bytes; want %d", len(got), limit)
	}
	tooLarge := nats.NewMsg("kv.set.larger")
	tooLarge.Data = make([]byte, limit+1)
	if reply := request(t, client, tooLarge); reply.Header.Get(bus.HeaderError) != "value_too_large" {
		t.Errorf("set of a larger one is answered with %v", reply.Header)
	}
}
