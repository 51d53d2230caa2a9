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
	limits := kv.Limits{
		MaxKeys:      int64(w.cfg.Store.MaxKeys),
		MaxValueSize: int64(w.cfg.Store.MaxValueSize),
		MaxBytes:     int64(w.cfg.Store.MaxBytes),

		MaxRequestIDs: int64(w.cfg.Store.RequestIDs.Max),
		MaxRequestAge: w.cfg.Store.RequestIDs.MaxAge,
	}
	replay := w.cfg.Store.Replay
	if !w.durable() {
		return memory.New(memory.Options{
			Limits:       limits,
			ReplayEvents: replay.MaxEvents,
			ReplayBytes:  int64(replay.MaxBytes),
		}), nil
	}
	consistency := kv.Linearizable
	if w.cfg.Store.Consistency == "eventual" {
		consistency = kv.Eventual
	}
	opening, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	syncAlways := w.cfg.Store.SyncAlways
	if w.server != nil {
		syncAlways = w.server.SyncAlways() // the file may have another
		w.routines.Go(func() {
			watchDisk(w.background, w.hasJetStream, func(err error) {
				cancel(err) // the log could be waited for in vain
				w.fail(err)
			})
		})
	}
	store, err := replicated.Open(opening, w.requests, replicated.Options{
		Prefix:            w.cfg.Bus.Prefix,
		Replicas:          w.cfg.Store.Replicas,
		NewReplicas:       w.cfg.NewReplicas(),
		Alone:             w.server != nil && !w.server.JetStreamClustered(),
		Limits:            limits,
		ReplayEvents:      replay.MaxEvents,
		ReplayBytes:       int64(replay.MaxBytes),
		Consistency:       consistency,
		Timeout:           w.cfg.Store.RequestTimeout,
		MaxPending:        4 * min(w.cfg.Service.MaxPending, math.MaxInt32),
		SyncAlways:        syncAlways,
		MaxLogBytes:       int64(w.cfg.Store.LogMaxBytes),
		MaxSnapshotsBytes: int64(w.cfg.Store.SnapshotsMaxBytes),
		SnapshotBytes:     int64(w.cfg.Store.SnapshotBytes),
		SnapshotAge:       w.cfg.Store.SnapshotMaxAge,
		Cursor:            watchbridge.Cursor,
		Logger:            w.logger,
	})
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
