package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/embedded"
	"kvbus/config"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/service"
	"kvbus/watchbridge"
)

// shutdownTimeout is how long the parts of a worker that have nothing more to
// do may take to stop.
const shutdownTimeout = 5 * time.Second

// recheckInterval is how often a worker looks for others on its prefix: two may
// have started while their servers had lost each other. The first time comes
// earlyRecheck after it has connected, as it may be an answer that was late.
const (
	recheckInterval = 30 * time.Second
	earlyRecheck    = 2 * time.Second
)

// A worker is everything that kvbus serve runs, from the server, if it has one
// of its own, up to the service. Parts that were not started are nil.
type worker struct {
	cfg    config.Config
	logger *slog.Logger

	subjects  bus.Subjects
	server    *embedded.Server
	connector connector
	relay     *service.Relay // nil while the service serves
	requests  *nats.Conn
	ended     <-chan struct{} // closed when requests has ended for good
	store     kv.Store
	bridge    atomic.Pointer[watchbridge.Bridge]
	service   *service.Service

	served   bool // everything was started once
	diskFull bool // the log says so; of the routine that watches the disk
	// failed gets why the worker can't go on.
	failed chan error
	// background is the context of the routines, which end with it.
	background context.Context
	cancel     context.CancelFunc
	routines   sync.WaitGroup
}

// run is a worker's life: it returns nil when ctx was cancelled and everything
// has stopped.
func (w *worker) run(ctx context.Context) error {
	w.background, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	err := w.start(ctx)
	if err == nil {
		w.served = true
		err = w.goOn(ctx)
	} else if ctx.Err() != nil {
		err = nil // told to stop while it started
	}
	// The drain has a bound of its own, beyond the end of ctx.
	if stopErr := w.stop(context.WithoutCancel(ctx)); err == nil {
		err = stopErr
	}
	if err == nil {
		w.logger.Info("stopped")
	}
	return err
}

// goOn returns nil when ctx was cancelled, or why the worker can't go on.
func (w *worker) goOn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
		case err := <-w.failed:
			return err
		case <-w.ended:
		}
		if ctx.Err() != nil { // also where there is no connection any more
			w.logger.Info("stopping", "reason", context.Cause(ctx))
			return nil
		}
		err := fmt.Errorf("%w: %w", errConnectionEnded, cmp.Or(w.requests.LastError(), nats.ErrConnectionClosed))
		if w.durable() {
			return err // the store needs the connection too
		}
		if err := w.serveAnew(ctx, err); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// start starts the parts, each on the ones before it.
func (w *worker) start(ctx context.Context) (err error) {
	if w.subjects, err = bus.NewSubjects(w.cfg.Bus.Prefix); err != nil {
		return err
	}
	if !w.cfg.NATS.External() {
		if w.server, err = w.startServer(ctx); err != nil {
			return err
		}
		if err := checkPayload(int64(w.server.MaxPayload())); err != nil {
			return err
		}
	}
	w.connector = connector{settings: w.cfg.NATS, name: "kvbus " + w.name(), server: w.server, logger: w.logger}
	if w.cfg.Cluster.Enabled() && !w.keepsRequests() {
		w.logger.Info("any node of the cluster may answer the clients of this one, as nats.config has several accounts")
	}
	if err := w.startRelay(ctx); err != nil {
		return err
	}
	if w.server != nil && w.durable() { // the cluster may be one of the file
		if err := w.server.WaitForQuorum(ctx); err != nil {
			return err
		}
	}
	if err := w.serve(ctx); err != nil {
		return err
	}
	w.stopRelay(ctx)
	// Only now, when the prefix is this worker's: who watches takes the first
	// heartbeat of another store in memory for the end of the one before.
	bridge := watchbridge.Start(w.store, watchbridge.Options{
		Dial: func(ctx context.Context) (*nats.Conn, error) {
			return w.connector.connect(ctx, "events", nats.NoReconnect())
		},
		Subjects: w.subjects,
		Logger:   w.logger,
	})
	w.bridge.Store(bridge)
	w.announce()
	return nil
}

// serve makes the connection for requests and starts the service on it, with the store
// that there is, or else opens it.
func (w *worker) serve(ctx context.Context) (err error) {
	// A connection that comes back may be to a server on which another worker
	// has taken the prefix since.
	reconnected := make(chan struct{}, 1)
	serving, end := context.WithCancel(w.background)
	w.ended = serving.Done()
	w.requests, err = w.connector.connect(ctx, "requests", nats.MaxReconnects(-1), nats.ReconnectHandler(func(nc *nats.Conn) {
		w.logger.Info("reconnected to NATS", "server", connectedURL(nc))
		select {
		case reconnected <- struct{}{}:
		default:
		}
	}), nats.ClosedHandler(func(*nats.Conn) { end() }))
	if err != nil {
		end()
		return err
	}
	if err := checkPayload(w.requests.MaxPayload()); err != nil {
		return err
	}
	if w.store == nil {
		if w.store, err = w.openStore(ctx); err != nil {
			return err
		}
	}
	w.service, err = service.Start(ctx, w.requests, w.store, service.Options{
		Subjects:        w.subjects,
		Relayed:         w.keepsRequests(),
		WorkerName:      w.name(),
		Version:         readBuild().semantic(),
		MaxPending:      w.cfg.Service.MaxPending,
		MaxPendingBytes: int(w.cfg.Service.MaxPendingBytes),
		EventCounts:     w.eventCounts,
		OnLost:          w.fail,
		Logger:          w.logger,
	})
	if err != nil {
		return err
	}
	nc, s := w.requests, w.service // there may be others later
	w.routines.Go(func() { w.recheck(serving, nc, s, reconnected) })
	return nil
}

// serveAnew serves the store on another connection after the one for requests has ended
// with err. Events have one of their own, and go on. What a server says to the worker ends
// it, as at a start; no other failure is worth the loss of a store.
func (w *worker) serveAnew(ctx context.Context, err error) error {
	w.stopService(ctx)
	for {
		w.logger.Error("connecting anew", "error", err, "in", restartPause)
		if err := pause(ctx); err != nil {
			return err
		}
		if err = w.serve(ctx); err == nil {
			w.announce()
			return nil
		}
		if ctx.Err() != nil || refusal(err) || w.requests != nil && w.requests.IsConnected() && !isSilence(err) {
			return err
		}
		w.requests.Close() // it may be on its way back
	}
}

// isSilence reports whether err is that of a connection that was lost, if only for a
// moment, or on which no answer came in time.
func isSilence(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

// stopService ends the service on a connection that has ended: what was taken is carried
// out before anything that comes by another one.
func (w *worker) stopService(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Service.DrainTimeout)
	defer cancel()
	if err := w.service.Stop(ctx); err != nil {
		w.logger.Warn("the service did not end with its connection", "error", err)
	}
	w.service = nil
}

func (w *worker) startServer(ctx context.Context) (*embedded.Server, error) {
	cluster := w.cfg.Cluster
	options := embedded.Options{
		ServerName:     w.cfg.Name,
		HostName:       hostName(),
		Listen:         w.cfg.NATS.Listen,
		ConfigFile:     w.cfg.NATS.Config,
		MaxPayload:     service.MaxPayload(int(w.cfg.Store.MaxValueSize)),
		MaxControlLine: service.MaxControlLine,
		JetStream:      w.cfg.Store.DataDir != "",
		StoreDir:       w.cfg.Store.DataDir,
		SyncAlways:     w.cfg.Store.SyncAlways,
		Logger:         w.logger,
	}
	if cluster.Enabled() {
		options.ServerName = cluster.NodeName
		options.Cluster = embedded.Cluster{
			Name:      cluster.Name,
			Listen:    cluster.Listen,
			Advertise: cluster.Advertise,
			Routes:    cluster.Routes.List(),
			User:      cluster.User,
			Password:  string(cluster.Password),
			TLS:       embedded.ClusterTLS(cluster.TLS),
			Local:     w.subjects.RequestPatterns(),
		}
	}
	return embedded.Start(ctx, options)
}

// checkPayload fails where the server's largest message has no room for any value.
func checkPayload(maxPayload int64) error {
	if least := int64(service.MaxPayload(0)) + 1; maxPayload < least {
		return fmt.Errorf("max_payload of the NATS server is %d bytes: must be at least %d, so that a value of one byte gets through", maxPayload, least)
	}
	return nil
}

// name returns what this worker is called, for people: as the operator says, or
// else as its server, or else as the host.
func (w *worker) name() string {
	if w.cfg.Name == "" && w.server != nil {
		return w.server.Name()
	}
	return cmp.Or(w.cfg.Name, hostName())
}

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

// recheck lets a service look at the server, and at the claim on the prefix, each time
// its connection came back, and now and then.
func (w *worker) recheck(ctx context.Context, nc *nats.Conn, s *service.Service, reconnected <-chan struct{}) {
	timer := time.NewTimer(earlyRecheck)
	defer timer.Stop()
	for {
		select {
		case <-reconnected:
			timer.Reset(earlyRecheck)
		case <-timer.C:
			timer.Reset(recheckInterval)
		case <-ctx.Done():
			return
		}
		if err := s.Recheck(ctx); err != nil && ctx.Err() == nil && nc.IsConnected() {
			w.logger.Warn("could not look for other workers on the prefix", "error", err)
		}
	}
}

// eventCounts tells how many events were published and lost.
func (w *worker) eventCounts() (published, lost uint64) {
	bridge := w.bridge.Load()
	if bridge == nil {
		return 0, 0
	}
	stats := bridge.Stats()
	return stats.Published, stats.Lost
}

// announce says, in one line, what an operator wants to know first.
func (w *worker) announce() {
	info := w.service.Store()
	attrs := []any{"nats", connectedURL(w.requests)}
	if w.server != nil {
		attrs = []any{"listen", w.server.ClientURL()}
	}
	survives := "nothing: the store is in memory and ends with this process"
	switch {
	case w.server != nil && info.Durable:
		survives = "everything that was answered, in " + w.server.StoreDir()
	case info.Durable:
		survives = "everything that was answered, in the JetStream of " + connectedURL(w.requests)
	}
	attrs = append(attrs, "prefix", w.cfg.Bus.Prefix, "store", info.Store, "replicas", info.Replicas, "sync_always", info.SyncAlways, "restart_keeps", survives)
	w.logger.Info("serving", attrs...)
}

// fail ends the worker because of err.
func (w *worker) fail(err error) {
	select {
	case w.failed <- err:
	default: // it is ending already
	}
}

// stop stops the parts in the order of their duties: no more requests, answers
// to those that were taken, the events that are due, and then the rest.
func (w *worker) stop(ctx context.Context) error {
	w.cancel()
	w.routines.Wait()
	if w.service != nil {
		starting, cancel := context.WithTimeout(ctx, relayTimeout)
		if err := w.startRelay(starting); err != nil {
			w.logger.Warn("requests are not handed on to other nodes", "error", err)
		}
		cancel()
	}
	drain, cancel := context.WithTimeout(ctx, w.cfg.Service.DrainTimeout)
	defer cancel()
	var errs []error
	if w.service != nil {
		errs = append(errs, w.service.Stop(drain))
	}
	if w.store != nil {
		errs = append(errs, w.store.Close())
	}
	if bridge := w.bridge.Load(); bridge != nil {
		errs = append(errs, bridge.Wait(drain))
	}
	if w.requests != nil {
		w.requests.Close()
	}
	w.stopRelay(ctx) // with the answers of other nodes, before clients lose their connections
	if w.server != nil {
		errs = append(errs, shutdown(ctx, w.server))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// shutdown ends a server.
func shutdown(ctx context.Context, server *embedded.Server) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	return server.Shutdown(ctx)
}
