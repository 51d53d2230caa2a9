package cmd

import (
	"context"
	"errors"
	"fmt"
	"math"

	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/watchbridge"
)

// durable reports whether the store survives this process.
func (w *worker) durable() bool { return w.cfg.Store.DataDir != "" || w.cfg.Store.Replicated }

// openStore opens the durable store where there is a place for its data, and
// makes one in memory where there is none.
func (w *worker) openStore(ctx context.Context) (kv.Store, error) {
	if w.durable() {
		return w.openDurable(ctx)
	}
	return memory.New(memory.Options{
		Limits:       w.limits(),
		ReplayEvents: w.cfg.Store.Replay.MaxEvents,
		ReplayBytes:  int64(w.cfg.Store.Replay.MaxBytes),
	}), nil
}

func (w *worker) limits() kv.Limits {
	s := w.cfg.Store
	return kv.Limits{
		MaxKeys:       int64(s.MaxKeys),
		MaxValueSize:  int64(s.MaxValueSize),
		MaxBytes:      int64(s.MaxBytes),
		MaxRequestIDs: int64(s.RequestIDs.Max),
		MaxRequestAge: s.RequestIDs.MaxAge,
	}
}

// openDurable opens the store on its log, and looks after it and after the disk of the
// worker's own server.
func (w *worker) openDurable(ctx context.Context) (kv.Store, error) {
	opening, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if w.server != nil {
		w.routines.Go(func() {
			watchDisk(w.background, w.hasJetStream, func(err error) {
				cancel(err) // the log could be waited for in vain
				w.fail(err)
			})
		})
	}
	store, err := replicated.Open(opening, w.requests, w.durableOptions())
	if err != nil {
		if cause := context.Cause(opening); cause != nil && ctx.Err() == nil {
			err = cause // of who watches the disk
		}
		if errors.Is(err, replicated.ErrNoStore) {
			err = fmt.Errorf("%w; its directory is %s", err, w.server.StoreDir())
		}
		return nil, err
	}
	w.routines.Go(func() {
		select {
		case err := <-store.Failed():
			w.fail(err)
		case <-w.background.Done():
		}
	})
	if w.server == nil {
		return store, nil
	}
	w.routines.Go(func() {
		watchDisk(w.background, func() error { return w.isAnswered(store) }, w.fail)
	})
	// A server that stands alone and was started on a full disk takes nothing until
	// it is started anew. A log at its bound has room made in it.
	if !w.server.JetStreamClustered() {
		if _, err := store.Info(opening); err != nil && !errors.Is(err, replicated.ErrLogFull) {
			return nil, errors.Join(err, store.Close())
		}
	}
	return store, nil
}

func (w *worker) durableOptions() replicated.Options {
	s := w.cfg.Store
	consistency := kv.Linearizable
	if s.Consistency == "eventual" {
		consistency = kv.Eventual
	}
	syncAlways := s.SyncAlways
	if w.server != nil {
		syncAlways = w.server.SyncAlways() // the file may have another
	}
	return replicated.Options{
		Prefix:            w.cfg.Bus.Prefix,
		Replicas:          s.Replicas,
		NewReplicas:       w.cfg.NewReplicas(),
		Alone:             w.server != nil && !w.server.JetStreamClustered(),
		Limits:            w.limits(),
		ReplayEvents:      s.Replay.MaxEvents,
		ReplayBytes:       int64(s.Replay.MaxBytes),
		Consistency:       consistency,
		Timeout:           s.RequestTimeout,
		MaxPending:        4 * min(w.cfg.Service.MaxPending, math.MaxInt32),
		SyncAlways:        syncAlways,
		MaxLogBytes:       int64(s.LogMaxBytes),
		MaxSnapshotsBytes: int64(s.SnapshotsMaxBytes),
		SnapshotBytes:     int64(s.SnapshotBytes),
		SnapshotAge:       s.SnapshotMaxAge,
		Cursor:            watchbridge.Cursor,
		Logger:            w.logger,
	}
}
