package cmd

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kvbus/config"
	"kvbus/kv/replicated"
)

// durableConfig is that of a worker with a server and a data directory of its own.
func durableConfig(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.NATS.Listen = "127.0.0.1:0"
	cfg.Store.DataDir = t.TempDir()
	return cfg
}

// A server that can't store the log is not asked again: it removes what is in the way.
func TestLogThatCanNotBeStored(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{"KVBUS_kv", "OBJ_KVBUS_kv"} {
		cfg := durableConfig(t)
		streams := filepath.Join(cfg.Store.DataDir, "jetstream", "$G", "streams")
		err := os.MkdirAll(streams, 0o700)
		if err == nil {
			err = os.WriteFile(filepath.Join(streams, stream), nil, 0o600) // where its directory would be
		}
		if err != nil {
			t.Fatal(err)
		}
		err = run(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if !errors.Is(err, replicated.ErrNoStore) || !strings.Contains(err.Error(), filepath.Join(cfg.Store.DataDir, "jetstream")) {
			t.Errorf("the worker ends with %v", err)
		}
	}
}

// However long a request may wait, a log that answers is not silent.
func TestLongestPatience(t *testing.T) {
	t.Parallel()
	cfg := durableConfig(t)
	cfg.Store.RequestTimeout = math.MaxInt64 / 2 // three of them are less than none
	w, _, _ := startWorkerBy(t, cfg)
	if err := w.isAnswered(w.store.(*replicated.Store)); err != nil {
		t.Errorf("the worker ends with %v", err)
	}
}

// A worker does not go on without the directory that its data is in.
func TestDataDirectoryIsRemoved(t *testing.T) {
	t.Parallel()
	cfg := durableConfig(t)
	cfg.Store.DataDir = filepath.Join(cfg.Store.DataDir, "data")
	_, _, ended := startWorkerBy(t, cfg)
	if err := os.Rename(cfg.Store.DataDir, cfg.Store.DataDir+".old"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || isMended(err) || !strings.Contains(err.Error(), cfg.Store.DataDir) {
			t.Errorf("the worker ends with %v", err)
		}
	case <-time.After(patience):
		t.Error("the worker goes on")
	}
}
