package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/kv"
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
		first, second os.Signal
		status        int
	}{
		{syscall.SIGTERM, syscall.SIGINT, 130},
		{syscall.SIGHUP, syscall.SIGTERM, 143},
		{syscall.SIGINT, syscall.SIGHUP, 129},
	} {
		s := startServer(t, "")
		w := serveOn(t, s.url, "--drain-timeout", "1h")
		// A server that is there and does nothing keeps it.
		s.freeze(t)
		w.signal(t, test.first)
		w.awaitLog(t, "stopping")
		w.signal(t, test.second)
		w.expectExit(t, test.status)
	}
}

// A hangup that a worker is told to ignore when it is started does not stop it. An
// interrupt does, which the background of a shell has ignored as well.
func TestIgnoredSignals(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", `trap "" HUP INT; exec "$@"`, "sh", filepath.Join(bin, "kvbus"), "serve", "--listen", "127.0.0.1:0")
	cmd.Env = environment()
	w := &worker{process: run(t, cmd)}
	nc := connect(t, w.awaitLog(t, "serving").text("listen"))
	w.signal(t, syscall.SIGHUP)
	mustAsk(t, nc, "kv.set.color", "blue")
	nc.Close()
	w.signal(t, syscall.SIGINT)
	if reason := w.awaitLog(t, "stopping").text("reason"); !strings.Contains(reason, "interrupt") {
		t.Errorf("it stops by %q", reason)
	}
	w.expectExit(t, 0)
}

// Who reads the log may end before the worker does.
func TestStopWithoutReaderOfTheLog(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	cmd := exec.Command(filepath.Join(bin, "kvbus"), "serve", "--listen", "127.0.0.1:0")
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = writer, writer
	p := run(t, cmd)
	log := bufio.NewScanner(reader)
	for log.Scan() && !strings.Contains(log.Text(), "serving") {
	}
	reader.Close()
	p.terminate(t)
}

// A worker whose server is gone and that has nothing to publish stops at once.
func TestStopWithoutServer(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"in memory":  nil,
		"replicated": {"--replicated"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, fmt.Sprintf("jetstream: {store_dir: %q}", t.TempDir()))
			w := serveOn(t, s.url, append(args, "--drain-timeout", "1h")...)
			if _, err := ask(connect(t, s.url), "kv.get.color", ""); !errors.Is(err, kv.ErrNotFound) {
				t.Fatal(err)
			}
			s.kill()
			// The bridge and the requests have connections of their own.
			w.awaitLog(t, "disconnected from NATS")
			w.awaitLog(t, "waiting for NATS")
			told := time.Now()
			w.terminate(t)
			if took := time.Since(told); took > stopPatience {
				t.Errorf("the worker stopped after %v", took)
			}
		})
	}
}

// stopPatience is less than any timeout that a stop without a server could run
// into, which are five seconds and more, and far more than it takes.
const stopPatience = 4500 * time.Millisecond

// A server that does not answer is waited for only as long as it is there.
func TestServerIsLostDuringStop(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	w := serveOn(t, s.url, "--drain-timeout", "1h")
	s.freeze(t)
	w.signal(t, syscall.SIGTERM)
	w.awaitLog(t, "stopping")
	s.kill()
	lost := time.Now()
	w.expectExit(t, 0)
	if took := time.Since(lost); took > stopPatience {
		t.Errorf("the worker stopped %v after its server was gone", took)
	}
}

// Who is not to wait, and has nothing to wait for, has not failed.
func TestStopWithoutWait(t *testing.T) {
	t.Parallel()
	serve(t, "--drain-timeout", "0s").terminate(t)
}

// Events that are due are waited for, until the drain timeout and no longer.
func TestStopWithoutServerWhileEventsAreDue(t *testing.T) {
	t.Parallel()
	const drain, ttl = time.Second, 5 * time.Second
	s := startServer(t, "")
	w := serveOn(t, s.url, "--drain-timeout", drain.String())
	// The keys expire, and their events are due, when nobody can be told.
	client := connect(t, s.url)
	for i := range 3 {
		m := nats.NewMsg(fmt.Sprint("kv.set.session.", i))
		m.Header.Set(bus.HeaderTTL, ttl.String())
		request(t, client, m)
	}
	expiry := time.Now().Add(ttl)
	s.kill()
	w.awaitLog(t, "disconnected from NATS")
	time.Sleep(time.Until(expiry.Add(500 * time.Millisecond))) // nobody can be asked
	told := time.Now()
	w.signal(t, syscall.SIGTERM)
	w.expectExit(t, 1)
	if took := time.Since(told); took < drain || took > drain+stopPatience {
		t.Errorf("the worker stopped after %v; want %v", took, drain)
	}
	unpublished := w.awaitLog(t, "events were not published")
	// Those of the writes may not have been confirmed.
	if events, _ := unpublished["events"].(float64); events < 3 || events > 6 {
		t.Errorf("the log says %v", unpublished)
	}
	expectParts(t, w.stderr.String(), "kvbus: stop: ", "were not published")
}
