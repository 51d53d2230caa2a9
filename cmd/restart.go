package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus/embedded"
	"kvbus/config"
	"kvbus/kv/replicated"
)

const (
	// diskCheck is how often a worker looks whether its server still writes.
	diskCheck = time.Second
	// silentTimeouts is for how many times the patience of a request the log may
	// say nothing.
	silentTimeouts = 3
	// restartPause is how long a worker waits before it starts or connects anew.
	restartPause = 2 * time.Second
)

// errDisk says that the server in the process can't write any more. Once that
// has happened, as on a full disk, a nats-server tries no more until it is
// started anew.
var errDisk = errors.New("the embedded server can't write its data; see what nats-server says in the log")

// errConnectionEnded says that nats.go has given up the connection for requests, as it
// does at an error of the server that it does not know. It makes no other one by itself.
var errConnectionEnded = errors.New("the connection to NATS has ended")

// run runs a worker until ctx is cancelled, and starts it anew where that may mend what
// ended it: when there is room again, or another connection, it serves again.
func run(ctx context.Context, cfg config.Config, logger *slog.Logger) error {
	served := false
	for {
		w := &worker{cfg: cfg, logger: logger, failed: make(chan error, 1)}
		err := w.run(ctx)
		served = served || w.served
		if err == nil || ctx.Err() != nil || !served || !isMended(err) {
			return err
		}
		logger.Error("starting anew", "error", err, "in", restartPause)
		if pause(ctx, restartPause) != nil {
			return nil
		}
	}
}

// pause waits for so long, or fails when ctx ends before.
func pause(ctx context.Context, long time.Duration) error {
	select {
	case <-time.After(long):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isMended reports whether another start may mend what ended a worker. A durable store may
// see the end of the connection first.
func isMended(err error) bool {
	return errors.Is(err, errConnectionEnded) || errors.Is(err, nats.ErrConnectionClosed) || isOfDisk(err)
}

// isOfDisk reports whether a worker ended, or did not start anew, because its
// server can't write. One that starts alone on a full disk takes no record; one of
// a cluster ends its JetStream; and one that is stuck keeps its directory until it has
// ended. What is damaged or lost is none of that: no start mends it.
func isOfDisk(err error) bool {
	return errors.Is(err, errDisk) || errors.Is(err, embedded.ErrNoJetStream) || errors.Is(err, embedded.ErrStoreInUse) ||
		errors.Is(err, replicated.ErrNotTaken)
}

// watchDisk calls check now and then, until it fails, which ended is told, or
// until ctx ends.
func watchDisk(ctx context.Context, check func() error, ended func(error)) {
	ticker := time.NewTicker(diskCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if err := check(); err != nil {
			ended(err)
			return
		}
	}
}

// hasJetStream fails when the server's JetStream has ended, or its directory is gone,
// which no start mends.
func (w *worker) hasJetStream() error {
	if !w.server.JetStreamEnabled() {
		return fmt.Errorf("%w: JetStream has ended", errDisk)
	}
	return w.server.CheckStore()
}

// isAnswered fails when the server says nothing to what is to be stored, and could be
// mended. In a cluster it may be that the majority is away.
func (w *worker) isAnswered(store *replicated.Store) error {
	silence := store.Silence()
	if w.server.JetStreamClustered() || silence/silentTimeouts < w.cfg.Store.RequestTimeout {
		w.diskFull = false
		return nil
	}
	if err := w.server.CheckDisk(); err != nil {
		if !w.diskFull {
			w.diskFull = true
			w.logger.Error("the disk takes nothing: until it does, eventual reads are answered only", "error", err)
		}
		return nil
	}
	return fmt.Errorf("%w: no answer from the log for %v", errDisk, silence.Round(time.Second))
}
