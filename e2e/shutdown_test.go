package e2e

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
)

// While clients keep it busy, a worker is told to stop: every request that it
// took is answered, and every event is published.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	t.Run("external server", func(t *testing.T) {
		t.Parallel()
		w := serveOn(t, startServer(t, "").url)
		for err := range stopUnderLoad(t, w) {
			// A request is answered, or nobody has taken it.
			if !errors.Is(err, nats.ErrNoResponders) {
				t.Errorf("a request ended with: %v", err)
			}
		}
	})
	t.Run("embedded server", func(t *testing.T) {
		t.Parallel()
		w := serve(t)
		for err := range stopUnderLoad(t, w) {
			// Here the connections end with the worker.
			if !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, nats.ErrConnectionClosed) {
				t.Errorf("a request ended with: %v", err)
			}
		}
	})
	t.Run("durable store", func(t *testing.T) {
		t.Parallel()
		w := serve(t, "--data-dir", t.TempDir())
		for err := range stopUnderLoad(t, w) {
			if !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, nats.ErrConnectionClosed) {
				t.Errorf("a request ended with: %v", err)
			}
		}
	})
}

// stopUnderLoad terminates a worker under load, compares what it answered with
// what it published, and returns how the last request of each client ended.
func stopUnderLoad(t *testing.T, w *worker) <-chan error {
	t.Helper()
	const connected, parallel, before = 4, 16, 2000
	events := collect(t, w.url, "kv.events.>")

	var answered atomic.Int64
	enough := make(chan struct{})
	ends := make(chan error, connected*parallel)
	var clients sync.WaitGroup
	for range connected {
		nc := connect(t, w.url, nats.NoReconnect())
		for i := range parallel {
			subject := "kv.incr.hits." + strconv.Itoa(i)
			clients.Go(func() {
				for {
					if _, err := ask(nc, subject, ""); err != nil {
						ends <- err
						return
					}
					if answered.Add(1) == before {
						close(enough)
					}
				}
			})
		}
	}
	select {
	case <-enough:
		w.terminate(t)
	case <-w.ended:
		t.Fatal("the worker has ended")
	}
	clients.Wait()
	close(ends)

	count := answered.Load()
	for revision := int64(1); revision <= count; revision++ {
		var event *nats.Msg // nil at the end of the connection
		select {
		case event = <-events:
		case <-time.After(patience):
		}
		if event == nil {
			t.Fatalf("%d requests were answered, and there are %d events", count, revision-1)
		}
		if got := event.Header.Get(bus.HeaderRevision); got != strconv.FormatInt(revision, 10) {
			t.Fatalf("%d requests were answered; event %d has the revision %s", count, revision, got)
		}
	}
	if more := len(events); more > 0 {
		t.Errorf("%d requests were answered, and there are %d events more", count, more)
	}
	return ends
}

// collect subscribes and gives what comes, up to the end of the connection. The
// other subscriptions of nats.go drop what came just before that.
func collect(t *testing.T, url, subject string) <-chan *nats.Msg {
	t.Helper()
	const enough = 1 << 18
	messages := make(chan *nats.Msg, enough)
	nc := connect(t, url, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(messages) }))
	if _, err := nc.ChanSubscribe(subject, messages); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	return messages
}

// A second signal ends a worker that can't stop yet.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		signal os.Signal
		status int
	}{
		{syscall.SIGINT, 130},
		{syscall.SIGTERM, 143},
	} {
		s := startServer(t, "")
		w := serveOn(t, s.url, "--drain-timeout", "1h")
		// A server that is there and does nothing keeps it.
		s.signal(t, syscall.SIGSTOP)
		w.signal(t, syscall.SIGTERM)
		w.awaitLog(t, "stopping")
		w.signal(t, test.signal)
		w.expectExit(t, test.status)
	}
}

// Shutdown does not wait longer than it was told, for a server that is gone.
func TestStopWithoutServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	w := serveOn(t, s.url, "--drain-timeout", "100ms")
	mustAsk(t, connect(t, s.url), "kv.set.color", "blue")
	s.kill()
	w.awaitLog(t, "disconnected from NATS")
	w.signal(t, syscall.SIGTERM)
	w.wait(t)
	w.awaitLog(t, "stopping")
}
