package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/config"
	"kvbus/kv"
	"kvbus/service"
)

const patience = 30 * time.Second

// A lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startWorker runs a worker on the server at url and waits until it serves. The
// channel tells how it ended.
func startWorker(t *testing.T, url string) (w *worker, log *lockedBuffer, ended <-chan error) {
	t.Helper()
	cfg := config.Default()
	cfg.NATS.URL = config.URLs(url)
	return startWorkerBy(t, cfg)
}

// startWorkerBy is startWorker with all that can be configured.
func startWorkerBy(t *testing.T, cfg config.Config) (w *worker, log *lockedBuffer, ended <-chan error) {
	t.Helper()
	log = &lockedBuffer{}
	w = newWorker(cfg, log)
	ended, _ = serveUntil(t, log, w.run)
	return w, log, ended
}

func newWorker(cfg config.Config, log *lockedBuffer) *worker {
	return &worker{cfg: cfg, logger: slog.New(slog.NewTextHandler(log, nil)), failed: make(chan error, 1)}
}

// serveUntil runs what says in the log that it serves, and waits for that. The channel
// tells how it ended, by stop or the end of the test or before.
func serveUntil(t *testing.T, log *lockedBuffer, run func(context.Context) error) (ended <-chan error, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { end <- run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	waitFor(t, "the worker to serve", func() bool { return strings.Contains(log.String(), "msg=serving") })
	return end, cancel
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A doorman lets clients in, or refuses and counts the workers' connections.
type doorman struct {
	mu      sync.Mutex
	closed  bool
	refused map[string]int // by the last word of the connection's name
}

func (d *doorman) Check(c server.ClientAuthentication) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := c.GetOpts().Name
	if !d.closed || !strings.HasPrefix(name, "kvbus ") {
		return true
	}
	d.refused[name[strings.LastIndexByte(name, ' ')+1:]]++
	return false
}

func (d *doorman) close(closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = closed
}

func (d *doorman) refusals(purpose string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused[purpose]
}

// A server that refuses a worker which it knew, as while its users are being
// changed, has it back when it lets it in again.
func TestRefusedForAWhile(t *testing.T) {
	t.Parallel()
	door := &doorman{refused: map[string]int{}}
	s := bustest.StartServer(t, server.Options{CustomClientAuthentication: door})
	proxy := bustest.StartProxy(t, s.Addr().String())
	_, log, _ := startWorker(t, proxy.URL())
	nc := bustest.Connect(t, s)
	events, err := nc.SubscribeSync("kv.events.>")
	if err != nil {
		t.Fatal(err)
	}

	door.close(true)
	proxy.Cut()
	waitFor(t, "three refusals", func() bool { return door.refusals("requests") >= 3 })
	if count := door.refusals("events"); count == 0 || count > 12 {
		t.Errorf("%d attempts in some seconds to have a connection for events", count)
	}
	waitFor(t, "the log to tell of it", func() bool { return strings.Contains(log.String(), `"publishing events was interrupted"`) })
	text := log.String()
	for _, once := range []string{"publishing events was interrupted", "NATS reports an error"} {
		// The connections may have broken before.
		if count := strings.Count(text, `"`+once+`"`); count == 0 || count > 2 {
			t.Errorf("%q is %d times in the log:\n%s", once, count, text)
		}
	}
	door.close(false)
	waitFor(t, "an answer", func() bool {
		_, err := nc.Request("kv.set.color", []byte("blue"), time.Second)
		return err == nil
	})
	if _, err := events.NextMsg(patience); err != nil {
		t.Errorf("no event: %v", err)
	}
}

// A worker that can't go on tells what was left undone at its end, beside what ended it.
func TestFailureWhileItFails(t *testing.T) {
	t.Parallel()
	proxy := bustest.StartProxy(t, bustest.StartServer(t, server.Options{}).Addr().String())
	cfg := config.Default()
	cfg.NATS.URL, cfg.Service.DrainTimeout = config.URLs(proxy.URL()), 0
	w, log, ended := startWorkerBy(t, cfg)
	proxy.Redirect("127.0.0.1:1") // nobody is there
	if _, err := kv.Of(w.store).Set(t.Context(), "k", "not published"); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	w.fail(broken)
	if err := awaitEnd(t, ended); !errors.Is(err, broken) {
		t.Errorf("it ended with %v", err)
	}
	if text := log.String(); !strings.Contains(text, "stop: 1 events after revision 0 were not published") {
		t.Errorf("the log is:\n%s", text)
	}
}

// A token is where a URL has the user, whom nats.go shows.
func TestTokenIsNotInTheLog(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{Authorization: "hunter2"})
	_, log, _ := startWorker(t, fmt.Sprintf("nats://hunter2@%v", s.Addr()))
	if text := log.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, fmt.Sprintf("nats://***@%v", s.Addr())) {
		t.Errorf("the log is:\n%s", text)
	}
}

// awaitEnd returns how a worker ended.
func awaitEnd(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatal("the worker goes on")
		return nil
	}
}

// ask makes a request until it is answered, as while a worker is about to serve.
func ask(t *testing.T, nc *nats.Conn, subject, body string) *nats.Msg {
	t.Helper()
	var answer *nats.Msg
	waitFor(t, "an answer to "+subject, func() (answered bool) {
		var err error
		answer, err = nc.Request(subject, []byte(body), time.Second)
		return err == nil
	})
	return answer
}

// A store in memory outlasts the connection for requests, and its events go on.
func TestConnectionEnds(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	w, log, _ := startWorker(t, s.ClientURL())
	nc := bustest.Connect(t, s)
	events, err := nc.SubscribeSync("kv.events.>")
	if err != nil {
		t.Fatal(err)
	}
	ask(t, nc, "kv.set.color", "blue")
	w.requests.Close()
	if answer := ask(t, nc, "kv.get.color", ""); string(answer.Data) != "blue" {
		t.Errorf("the answer is %q with the headers %v", answer.Data, answer.Header)
	}
	if answer := ask(t, nc, "kv.set.color", "green"); answer.Header.Get("KV-Revision") != "2" {
		t.Errorf("the next revision has the headers %v", answer.Header)
	}
	for _, want := range []string{"blue", "green"} {
		if event, err := events.NextMsg(patience); err != nil || string(event.Data) != want {
			t.Errorf("the event of %s is %v, %v", want, event, err)
		}
	}
	if text := log.String(); !strings.Contains(text, `level=ERROR msg="connecting anew" error="the connection to NATS has ended: `) {
		t.Errorf("the log is:\n%s", text)
	}
}

// A durable store needs the connection too: all is started anew.
func TestConnectionOfDurableStoreEnds(t *testing.T) {
	t.Parallel()
	w, _, ended := startWorkerBy(t, durableConfig(t))
	begin := time.Now()
	w.requests.Close()
	if err := awaitEnd(t, ended); !errors.Is(err, nats.ErrConnectionClosed) || !isMended(err) {
		t.Errorf("the worker ended with %v", err)
	}
	if took := time.Since(begin); took >= w.cfg.Service.DrainTimeout {
		t.Errorf("the worker took %v to end", took)
	}
}

// Who waits before another attempt to connect is stopped as ever.
func TestStopWithoutConnection(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	cfg := config.Default()
	cfg.NATS.URL = config.URLs(bustest.StartServer(t, server.Options{}).ClientURL())
	w := newWorker(cfg, &log)
	ended, stop := serveUntil(t, &log, w.run)
	w.requests.Close()
	waitFor(t, "the log to tell of it", func() bool { return strings.Contains(log.String(), "connecting anew") })
	stop()
	if err := awaitEnd(t, ended); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
}

// A server that does not know the worker's user any more ends it.
func TestConnectionIsRefused(t *testing.T) {
	t.Parallel()
	door := &doorman{refused: map[string]int{}}
	w, _, ended := startWorker(t, bustest.StartServer(t, server.Options{CustomClientAuthentication: door}).ClientURL())
	door.close(true)
	w.requests.Close()
	if err := awaitEnd(t, ended); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the worker ended with %v", err)
	}
}

// A porter lets everybody in, and is told who comes.
type porter func(name string)

func (p porter) Check(c server.ClientAuthentication) bool {
	p(c.GetOpts().Name)
	return true
}

// A server that falls silent while the worker connects anew is tried again, and the store
// is kept.
func TestSilenceOnAnotherConnection(t *testing.T) {
	t.Parallel()
	var proxy *bustest.Proxy
	var connections atomic.Int64
	s := bustest.StartServer(t, server.Options{CustomClientAuthentication: porter(func(name string) {
		if strings.HasSuffix(name, " requests") && connections.Add(1) == 2 {
			proxy.Pace(0) // it has all that a client sends until it is connected
		}
	})})
	proxy = bustest.StartProxy(t, s.Addr().String())
	w, log, _ := startWorker(t, proxy.URL())
	nc := bustest.Connect(t, s)
	ask(t, nc, "kv.set.color", "blue")
	w.requests.Close()
	waitFor(t, "the second attempt", func() bool { return strings.Count(log.String(), "connecting anew") == 2 })
	proxy.Pace(bustest.Free)
	if answer := ask(t, nc, "kv.get.color", ""); string(answer.Data) != "blue" {
		t.Errorf("the answer is %q with the headers %v", answer.Data, answer.Header)
	}
}

// A worker that had no connection for a while does not serve beside the one that has taken
// its prefix.
func TestPrefixIsTakenMeanwhile(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	proxy := bustest.StartProxy(t, s.Addr().String())
	w, _, ended := startWorker(t, proxy.URL())
	proxy.Redirect("127.0.0.1:1") // nobody is there
	w.requests.Close()
	startWorker(t, s.ClientURL())
	proxy.Redirect(s.Addr().String())
	if err := awaitEnd(t, ended); !errors.Is(err, service.ErrPrefixTaken) {
		t.Errorf("the worker ended with %v", err)
	}
}

// A server tells no client that it takes less than before: it closes the connection of who
// sends more, and nats.go makes no other one then.
func TestMaxPayloadIsLowered(t *testing.T) {
	t.Parallel()
	for name, replicated := range map[string]bool{"memory": false, "durable": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := server.Options{JetStream: replicated, StoreDir: t.TempDir()}
			s := bustest.StartServer(t, opts)
			cfg := config.Default()
			cfg.NATS.URL = config.URLs(s.ClientURL())
			cfg.Store.Replicated, cfg.Store.Replicas = replicated, 1
			var log lockedBuffer
			serveUntil(t, &log, func(ctx context.Context) error {
				return run(ctx, cfg, slog.New(slog.NewTextHandler(&log, nil)))
			})
			nc := bustest.Connect(t, s)
			ask(t, nc, "kv.set.large", strings.Repeat("a", 500_000))
			ask(t, nc, "kv.set.color", "blue")

			lowered := opts
			lowered.Host, lowered.Port = "127.0.0.1", s.Addr().(*net.TCPAddr).Port
			lowered.NoSigs, lowered.NoLog = true, true
			lowered.MaxPayload = 100_000
			if err := s.ReloadOptions(&lowered); err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Request("kv.get.large", nil, 100*time.Millisecond); err == nil {
				t.Error("the server carries the large value")
			}
			if answer := ask(t, nc, "kv.get.color", ""); string(answer.Data) != "blue" {
				t.Errorf("the answer is %q with the headers %v", answer.Data, answer.Header)
			}
			if answer := ask(t, nc, "kv.get.large", ""); answer.Header.Get("KV-Error") != "value_too_large" {
				t.Errorf("the large value is answered with the headers %v", answer.Header)
			}
			if !strings.Contains(strings.ToLower(log.String()), "maximum payload violation") {
				t.Errorf("the log is:\n%v", &log)
			}
		})
	}
}
