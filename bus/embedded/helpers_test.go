package embedded_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus/embedded"
)

const anyPort = "127.0.0.1:0"

// patience is how long a test waits for what comes at once, if it comes.
const patience = 30 * time.Second

// start starts a server on any port, unless opts say otherwise, and ends it
// with the test.
func start(t *testing.T, opts embedded.Options) *embedded.Server {
	t.Helper()
	if opts.Listen == "" {
		opts.Listen = anyPort
	}
	s, err := embedded.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(t, s) })
	return s
}

func shutdown(t *testing.T, s *embedded.Server) {
	t.Helper()
	// At cleanup the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

// refused starts a server that must not start, and returns the error.
func refused(t *testing.T, opts embedded.Options) error {
	t.Helper()
	if opts.Listen == "" {
		opts.Listen = anyPort
	}
	s, err := embedded.Start(t.Context(), opts)
	if err == nil {
		shutdown(t, s)
		t.Fatal("the server started")
	}
	return err
}

func inProcess(t *testing.T, s *embedded.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := s.Connect(append(opts, quiet, nats.Timeout(patience))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func overTCP(t *testing.T, s *embedded.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), append(opts, quiet, nats.Timeout(patience))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// quiet keeps nats.go from writing to stderr that a server has ended, where that
// is what the test does.
func quiet(o *nats.Options) error {
	o.AsyncErrorCB = func(*nats.Conn, *nats.Subscription, error) {}
	return nil
}

// carry sends a message of so many bytes from one connection to another.
func carry(t *testing.T, from, to *nats.Conn, size int) {
	t.Helper()
	sub, err := to.SubscribeSync("carry")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := to.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := from.Publish("carry", make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if len(msg.Data) != size {
		t.Fatalf("%d bytes arrived of %d", len(msg.Data), size)
	}
}

func writeFile(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func requireIn(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error has no %q: %v", part, err)
		}
	}
}

// recorder is a slog handler that keeps what it gets, as
// "LEVEL component text key=value".
type recorder struct {
	level     slog.Level
	component string
	lines     *recorded
}

type recorded struct {
	mu    sync.Mutex
	lines []string
}

func record(level slog.Level) recorder { return recorder{level: level, lines: &recorded{}} }

func (r recorder) Enabled(_ context.Context, level slog.Level) bool { return level >= r.level }

func (r recorder) Handle(_ context.Context, record slog.Record) error {
	r.lines.mu.Lock()
	defer r.lines.mu.Unlock()
	line := record.Level.String() + " " + r.component + " " + record.Message
	record.Attrs(func(attr slog.Attr) bool {
		line += " " + attr.String()
		return true
	})
	r.lines.lines = append(r.lines.lines, line)
	return nil
}

func (r recorder) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, attr := range attrs {
		if attr.Key == "component" {
			r.component = attr.Value.String()
		}
	}
	return r
}

func (r recorder) WithGroup(string) slog.Handler { return r }

// find returns the first line that starts like that, or "".
func (r recorder) find(prefix string) string {
	r.lines.mu.Lock()
	defer r.lines.mu.Unlock()
	i := slices.IndexFunc(r.lines.lines, func(line string) bool { return strings.HasPrefix(line, prefix) })
	if i < 0 {
		return ""
	}
	return r.lines.lines[i]
}

func (r recorder) all() []string {
	r.lines.mu.Lock()
	defer r.lines.mu.Unlock()
	return slices.Clone(r.lines.lines)
}
