package service_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv/memory"
	"kvbus/service"
)

// startService serves a new memory store on a connection of its own.
func startService(tb testing.TB, s *server.Server, storeOpts memory.Options, opts service.Options) (*service.Service, *memory.Store) {
	tb.Helper()
	store := memory.New(storeOpts)
	tb.Cleanup(func() { store.Close() })
	if opts.ClaimWait == 0 {
		opts.ClaimWait = time.Millisecond
	}
	nc := bustest.Connect(tb, s, nats.InProcessServer(s))
	svc, err := service.Start(tb.Context(), nc, store, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return svc, store
}
