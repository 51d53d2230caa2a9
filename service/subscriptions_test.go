package service_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
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

// rights are those of a worker in cmd/OPERATING.md.
var rights = []string{"_INBOX.>", "kv.events.>", "kv.revision", "$SRV.>", "$KVBUS.>", "$O.>", "$JS.API.>", "$JS.ACK.>"}

// Clients who want answers where a worker may not publish do not keep it from
// starting, and do not hide from it what it may not do.
func TestRightsOfAWorker(t *testing.T) {
	user := func(name string, publish []string, subscribe *server.SubjectPermission) *server.User {
		return &server.User{Username: name, Password: "x", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: publish}, Subscribe: subscribe,
		}}
	}
	s := bustest.StartServer(t, server.Options{Users: []*server.User{
		{Username: "client", Password: "x"},
		user("worker", rights, nil),
		user("can't take sets", rights, &server.SubjectPermission{Deny: []string{"kv.set.>"}}),
		user("can't be found", rights, &server.SubjectPermission{Deny: []string{"$SRV.INFO"}}),
		user("can't look for others", []string{"_INBOX.>", "kv.events.>", "kv.revision"}, nil),
		user("can't answer", rights[1:], nil),
	}})
	start := func(name string) (*service.Service, error) {
		store := memory.New(memory.Options{})
		t.Cleanup(func() { store.Close() })
		nc := bustest.Connect(t, s, nats.UserInfo(name, "x"), silent)
		return service.Start(t.Context(), nc, store, service.Options{ClaimWait: 50 * time.Millisecond})
	}
	expectRefusal := func(name string) {
		t.Helper()
		if _, err := start(name); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("who %s starts with %v", name, err)
		}
	}
	expectRefusal("can't answer")

	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := bustest.Connect(t, s, nats.UserInfo("client", "x"))
	clients.Go(func() {
		for ctx.Err() == nil {
			for _, subject := range []string{"$SRV.PING", "$SRV.INFO.kvbus", "kv.get.color", "kv.set.color", "kv.info"} {
				if err := client.PublishRequest(subject, "elsewhere", nil); err != nil {
					t.Error(err)
				}
			}
			if err := client.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	for range 3 {
		svc, err := start("worker")
		if err != nil {
			t.Fatal(err)
		}
		if err := svc.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"can't take sets", "can't be found", "can't look for others"} {
			expectRefusal(name)
		}
	}
}
