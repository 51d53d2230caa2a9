package replicated_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/kvtest"
	"kvbus/kv/replicated"
)

func startServer(tb testing.TB) *server.Server {
	return bustest.StartServer(tb, server.Options{JetStream: true, StoreDir: tb.TempDir(), MaxPayload: 8 << 20})
}

// open opens a store on a connection of its own.
func open(tb testing.TB, s *server.Server, opts replicated.Options) *replicated.Store {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	store, err := replicated.Open(ctx, bustest.Connect(tb, s, nats.InProcessServer(s)), opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { store.Close() })
	return store
}

func TestConformance(t *testing.T) {
	kvtest.Run(t, kvtest.Config{
		Open: func(t testing.TB, opts kvtest.Options) kv.Store {
			return open(t, startServer(t), replicated.Options{
				Limits:       opts.Limits,
				ReplayEvents: opts.ReplayEvents,
				Timeout:      2 * time.Second,
			})
		},
	})
}
