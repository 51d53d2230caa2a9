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

// openThrough opens a store on a connection through a proxy. When that breaks it
// is made again at once, and what was to be sent meanwhile is not kept.
func openThrough(tb testing.TB, s *server.Server, opts replicated.Options) (*replicated.Store, *bustest.Proxy) {
	tb.Helper()
	proxy := bustest.StartProxy(tb, s.Addr().String())
	nc, err := bustest.Dial(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	store, err := replicated.Open(ctx, nc, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { store.Close() })
	return store, proxy
}

func TestConformance(t *testing.T) {
	kvtest.Run(t, kvtest.Config{
		Open: func(t testing.TB, opts kvtest.Options) kv.Store {
			return open(t, startServer(t), replicated.Options{
				Limits:       opts.Limits,
				ReplayEvents: opts.ReplayEvents,
				Timeout:      8 * time.Second,
			})
		},
	})
}
