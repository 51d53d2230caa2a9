package replicated

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
)

// openAlone opens a store on a server that has no others beside it.
func openAlone(t *testing.T, s *server.Server) *Store {
	t.Helper()
	store, err := Open(t.Context(), bustest.Connect(t, s), Options{Alone: true, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// A store whose log was removed ends, with an error that names it.
func TestLogRemoved(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	store := openAlone(t, s)
	if _, err := kv.Of(store).Set(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if err := store.js.DeleteStream(t.Context(), "KVBUS_kv"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-store.Failed():
		if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), "the log KVBUS_kv was removed") {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on")
	}
}

// A JetStream that ends and begins again is none whose log was removed.
func TestJetStreamAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: dir})
	store := openAlone(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	untilWritten := func(want bool) {
		t.Helper()
		for written := !want; written != want; {
			_, err := kv.Of(store).Set(ctx, "k", "v")
			if ctx.Err() != nil || errors.Is(err, kv.ErrClosed) {
				t.Fatalf("a write ends with %v", err)
			}
			written = err == nil
		}
	}
	untilWritten(true)
	if err := s.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	// For longer than it takes to find a log removed.
	for away := time.Now(); time.Since(away) < removedAlone+4*removedCheck; {
		untilWritten(false)
	}
	if err := s.EnableJetStream(&server.JetStreamConfig{StoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	untilWritten(true)
	select {
	case err := <-store.Failed():
		t.Error(err)
	default:
	}
}

// A log counts as removed when JetStream says so for a while, and nothing else.
func TestUntilRemoved(t *testing.T) {
	removed := fmt.Errorf("wrapped: %w", jetstream.ErrStreamNotFound)
	for name, test := range map[string]struct {
		between error // what it says once a minute
		want    bool
	}{
		"always":                 {removed, true},
		"there it is":            {nil, false},
		"nobody answers":         {nats.ErrNoResponders, false},
		"no JetStream":           {jetstream.ErrJetStreamNotEnabled, false},
		"no answer in time":      {context.DeadlineExceeded, false},
		"no leader":              {&jetstream.APIError{Code: 503, ErrorCode: 10008}, false},
		"the connection is lost": {nats.ErrConnectionClosed, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				begun, asked := time.Now(), 0
				err := untilRemoved(ctx, time.Minute, func() error {
					if asked++; asked%int(time.Minute/removedCheck) == 0 {
						return test.between
					}
					return removed
				})
				switch took := time.Since(begun); {
				case !test.want && err != nil:
					t.Errorf("it counts as removed after %v: %v", took, err)
				case test.want && (!errors.Is(err, jetstream.ErrStreamNotFound) || took < time.Minute || took > 2*time.Minute):
					t.Errorf("it ends after %v with %v", took, err)
				}
			})
		})
	}
}
