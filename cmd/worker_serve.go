package cmd

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/service"
)

// recheckInterval is how often a worker looks for others on its prefix: two may
// have started while their servers had lost each other. The first time comes
// earlyRecheck after it has connected, as it may be an answer that was late.
const (
	recheckInterval = 30 * time.Second
	earlyRecheck    = 2 * time.Second
)

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
		if err := pause(ctx, restartPause); err != nil {
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
