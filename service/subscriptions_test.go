package service_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv/memory"
	"kvbus/service"
)

// silent is for connections on which errors are expected.
var silent = nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})

// Who may have fewer subscriptions than it needs does not start, however often it
// tries.
func TestTooManySubscriptions(t *testing.T) {
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]func(*nats.Conn) error{
		"service": func(nc *nats.Conn) error {
			store := memory.New(memory.Options{})
			t.Cleanup(func() { store.Close() })
			_, err := service.Start(t.Context(), nc, store, service.Options{ClaimWait: time.Millisecond})
			return err
		},
		"relay": func(nc *nats.Conn) error {
			_, err := service.StartRelay(t.Context(), nc, service.RelayOptions{
				Subjects: subjects, Interest: func(string) int { return 0 }, Logger: slog.New(slog.DiscardHandler),
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			nc := bustest.Connect(t, bustest.StartServer(t, server.Options{}))
			if err := start(nc); err != nil {
				t.Fatal(err)
			}
			nc = bustest.Connect(t, bustest.StartServer(t, server.Options{MaxSubs: nc.NumSubscriptions() - 1}), silent)
			for range 2 {
				if err := start(nc); !errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
					t.Errorf("with a subscription less than it needs: %v", err)
				}
			}
		})
	}
}
