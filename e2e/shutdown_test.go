package e2e

import (
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
		unanswered := stopUnderLoad(t, serveOn(t, startServer(t, "").url))
		if unanswered > 0 {
			t.Errorf("%d requests were neither answered nor refused", unanswered)
		}
	})
	// In the other cases the connections end with the worker: requests that were
	// under way then may be neither.
	t.Run("embedded server", func(t *testing.T) {
		t.Parallel()
		stopUnderLoad(t, serve(t))
	})
	t.Run("durable store", func(t *testing.T) {
		t.Parallel()
		stopUnderLoad(t, serve(t, "--data-dir", t.TempDir()))
	})
}

// stopUnderLoad terminates a worker under load and compares what it answered
// with what it published. It returns how many requests got no reply, not even
// that nobody is there to take them.
func stopUnderLoad(t *testing.T, w *worker) (unanswered int) {
	t.Helper()
	const before = 2000 // answers
	events := collect(t, w.url, "kv.events.>")
	loads := make([]*load, 4)
	var (
		answered atomic.Int64
		clients  sync.WaitGroup
	)
	enough := make(chan struct{})
	for i := range loads {
		loads[i] = newLoad(t, w.url, "kv.incr.hits."+strconv.Itoa(i), func() {
			if answered.Add(1) == before {
				close(enough)
			}
		})
		clients.Go(loads[i].run)
	}
	select {
	case <-enough:
		w.terminate(t)
	case <-w.ended:
		t.Fatal("the worker has ended")
	case <-time.After(patience):
		t.Fatal("too little was answered")
	}
	clients.Wait()

	for _, l := range loads {
		if l.err != nil {
			t.Error(l.err)
		}
		unanswered += l.waiting
	}
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
	return unanswered
}

// A load is a client with several requests under way at any time.
type load struct {
	nc       *nats.Conn
	subject  string
	inbox    string
	replies  <-chan *nats.Msg
	answered func()

	waiting int // requests without a reply
	err     error
}

func newLoad(t *testing.T, url, subject string, answered func()) *load {
	t.Helper()
	inbox := nats.NewInbox()
	nc, replies := collectOn(t, url, inbox)
	return &load{nc: nc, subject: subject, inbox: inbox, replies: replies, answered: answered}
}

// run sends requests until one is refused, as nobody is there to take it, and
// returns when all have a reply or the connection has ended.
func (l *load) run() {
	const parallel = 16
	for range parallel {
		l.send()
	}
	refused := false
	for l.waiting > 0 {
		var reply *nats.Msg // nil at the end of the connection
		select {
		case reply = <-l.replies:
		case <-time.After(patience):
		}
		if reply == nil {
			return
		}
		l.waiting--
		switch err := bus.DecodeError(reply.Header); {
		case reply.Header.Get("Status") == "503":
			refused = true
		case err != nil:
			l.err = err
			return
		default:
			l.answered()
		}
		if !refused {
			l.send()
		}
	}
}

func (l *load) send() {
	if l.nc.PublishRequest(l.subject, l.inbox, nil) == nil {
		l.waiting++
	}
}

// collect subscribes and gives what comes, up to the end of the connection. The
// other subscriptions of nats.go drop what came just before that.
func collect(t *testing.T, url, subject string) <-chan *nats.Msg {
	t.Helper()
	_, messages := collectOn(t, url, subject)
	return messages
}

// collectOn is collect with the connection that it makes.
func collectOn(t *testing.T, url, subject string) (*nats.Conn, <-chan *nats.Msg) {
	t.Helper()
	const enough = 1 << 16
	messages := make(chan *nats.Msg, enough)
	nc := connect(t, url, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(messages) }))
	if _, err := nc.ChanSubscribe(subject, messages); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	return nc, messages
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
