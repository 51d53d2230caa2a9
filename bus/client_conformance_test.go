package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/kvtest"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/service"
	"kvbus/watchbridge"
)

// startBusServer starts a server that carries values of 1 MiB in every request.
func startBusServer(t testing.TB, opts server.Options) *server.Server {
	t.Helper()
	opts.MaxPayload = int32(service.MaxPayload(1 << 20))
	return bustest.StartServer(t, opts)
}

// startBus puts a store on the bus, with its events. It ends with the test, and
// the store before it.
func startBus(t testing.TB, s *server.Server, store kv.Store, opts service.Options) {
	t.Helper()
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial("", nats.InProcessServer(s), nats.NoReconnect())
		},
		Subjects:       opts.Subjects,
		BurstHeartbeat: 20 * time.Millisecond,
	})
	opts.ClaimWait = time.Millisecond
	svc, err := service.Start(t.Context(), bustest.Connect(t, s, nats.InProcessServer(s)), store, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), watchPatience)
		defer cancel()
		if err := svc.Stop(ctx); err != nil {
			t.Errorf("stop the service: %v", err)
		}
		store.Close()
		if err := bridge.Wait(ctx); err != nil {
			t.Errorf("stop the bridge: %v", err)
		}
	})
}

func newClient(t testing.TB, nc *nats.Conn, opts bus.ClientOptions) *bus.Client {
	t.Helper()
	client, err := bus.NewClient(nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func defaultSubjects(t testing.TB) bus.Subjects {
	t.Helper()
	subjects, err := bus.NewSubjects("")
	if err != nil {
		t.Fatal(err)
	}
	return subjects
}

func runConformance(t *testing.T, open func(t testing.TB, s *server.Server, opts kvtest.Options) kv.Store, serverOpts func(t testing.TB) server.Options) {
	kvtest.Run(t, kvtest.Config{
		Open: func(t testing.TB, opts kvtest.Options) kv.Store {
			s := startBusServer(t, serverOpts(t))
			startBus(t, s, open(t, s, opts), service.Options{Subjects: defaultSubjects(t)})
			return newClient(t, bustest.Connect(t, s), bus.ClientOptions{Timeout: 12 * time.Second})
		},
		NoSetLimits: true,
		NoSweep:     true,
		Buffers:     true,
	})
}

func TestClientConformance(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		runConformance(t, func(_ testing.TB, _ *server.Server, opts kvtest.Options) kv.Store {
			return memory.New(memory.Options{Limits: opts.Limits, ReplayEvents: opts.ReplayEvents})
		}, func(testing.TB) server.Options { return server.Options{} })
	})
	t.Run("replicated", func(t *testing.T) {
		runConformance(t, func(t testing.TB, s *server.Server, opts kvtest.Options) kv.Store {
			return openReplicated(t, s, replicated.Options{Limits: opts.Limits, ReplayEvents: opts.ReplayEvents, Timeout: 8 * time.Second})
		}, jetStream)
	})
}

func jetStream(t testing.TB) server.Options {
	return server.Options{JetStream: true, StoreDir: t.TempDir()}
}

func openReplicated(t testing.TB, s *server.Server, opts replicated.Options) *replicated.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	store, err := replicated.Open(ctx, bustest.Connect(t, s, nats.InProcessServer(s)), opts)
	if err != nil {
		t.Fatal(err)
	}
	return store
}
