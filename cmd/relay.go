package cmd

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/service"
)

// relayTimeout is how long a relay may take at the end of a worker, to start and to
// stop.
const relayTimeout = time.Second

// keepsRequests reports whether this worker alone gets what clients of its server
// ask for. So it is with a node of a cluster: no request and no answer goes by way
// of another node, and one that has gone silent gets nobody's requests but those of
// its own clients.
func (w *worker) keepsRequests() bool { return w.server != nil && w.server.Local() }

// startRelay has requests that come while this worker does not serve carried out by
// other nodes.
func (w *worker) startRelay(ctx context.Context) error {
	if !w.keepsRequests() {
		return nil
	}
	// It is lost with the server, which is nothing to tell of.
	nc, err := w.connector.connect(ctx, "relay", nats.MaxReconnects(-1), nats.DisconnectErrHandler(nil))
	if err != nil {
		return err
	}
	w.relay, err = service.StartRelay(ctx, nc, service.RelayOptions{
		Subjects: w.subjects,
		Interest: func(subject string) int { return w.server.Interest(nc, subject) },
		Logger:   w.logger,
	})
	if err != nil {
		nc.Close()
	}
	return err
}

// stopRelay ends that. What was taken is handed on and answered, also where the worker
// was told to stop meanwhile.
func (w *worker) stopRelay(ctx context.Context) {
	if w.relay == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayTimeout)
	defer cancel()
	w.relay.Stop(ctx)
	w.relay = nil
}
