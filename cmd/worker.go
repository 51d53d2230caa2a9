package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/embedded"
	"kvbus/config"
	"kvbus/kv"
	"kvbus/service"
	"kvbus/watchbridge"
)

// shutdownTimeout is how long the parts of a worker that have nothing more to
// do may take to stop.
const shutdownTimeout = 5 * time.Second

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
	switch stopErr := w.stop(context.WithoutCancel(ctx)); {
	case err == nil && stopErr == nil:
		w.logger.Info("stopped")
	case err == nil:
		err = stopErr
	case stopErr != nil: // what ended the worker is what it returns
		w.logger.Error("not stopped in order", "error", stopErr)
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
