package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/config"
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
	w = &worker{cfg: cfg, logger: slog.New(slog.NewTextHandler(log, nil)), failed: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { end <- w.run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	waitFor(t, "the worker to serve", func() bool { return strings.Contains(log.String(), "msg=serving") })
	return w, log, end
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

// A token is where a URL has the user, whom nats.go shows.
func TestTokenIsNotInTheLog(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{Authorization: "hunter2"})
	_, log, _ := startWorker(t, fmt.Sprintf("nats://hunter2@%v", s.Addr()))
	if text := log.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, fmt.Sprintf("nats://***@%v", s.Addr())) {
		t.Errorf("the log is:\n%s", text)
	}
}

// A worker whose connection has ended for good answers nobody any more.
func TestConnectionEnds(t *testing.T) {
	t.Parallel()
	w, _, ended := startWorker(t, bustest.StartServer(t, server.Options{}).ClientURL())
	w.requests.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("the worker ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the worker goes on")
	}
}
