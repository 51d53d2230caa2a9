package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
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

// A right or a limit that the server takes from a worker while that serves, if only by
// mistake, comes back without a subscription of those that were refused meanwhile.
func TestSubscriptionsThatWereRefused(t *testing.T) {
	for name, taken := range map[string]struct{ denied, limits string }{
		"some":         {`"kv.get.>", "kv.clear", "store"`, ""},
		"all":          {`"kv.>", "$SRV.>", "_INBOX.>", "store"`, ""},
		"by the limit": {"", "max_subs: 5"},
	} {
		t.Run(name, func(t *testing.T) {
			options := func(denied, limits string) (opts server.Options) {
				text := fmt.Sprintf(`accounts: { A: {
					users: [
						{user: client, password: x}
						{user: worker, password: x, permissions: {subscribe: {deny: [%s]}}}
					]
					limits: {%s}
				}}`, denied, limits)
				if err := opts.ProcessConfigString(text); err != nil {
					t.Fatal(err)
				}
				opts.AuthTimeout = patience.Seconds()
				return opts
			}
			s := bustest.StartServer(t, options("", ""))
			reload := func(denied, limits string) {
				opts := options(denied, limits)
				opts.Host, opts.Port = "127.0.0.1", server.RANDOM_PORT
				opts.NoSigs, opts.NoLog = true, true
				if err := s.ReloadOptions(&opts); err != nil {
					t.Fatal(err)
				}
			}
			client := bustest.Connect(t, s, nats.UserInfo("client", "x"))
			reconnected := make(chan struct{}, 9)
			nc := bustest.Connect(t, s, nats.UserInfo("worker", "x"), silent,
				nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond),
				nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))
			store := memory.New(memory.Options{})
			t.Cleanup(func() { store.Close() })
			stores, err := nc.SubscribeSync("store")
			if err != nil {
				t.Fatal(err)
			}
			log := new(lines)
			svc, err := service.Start(t.Context(), nc, store, service.Options{ClaimWait: time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			before := nc.NumSubscriptions()
			expect(t, client, "kv.set.color", "blue", "1")

			reload(taken.denied, taken.limits)
			if taken.limits != "" { // which counts when a subscription is made
				if err := nc.ForceReconnect(); err != nil {
					t.Fatal(err)
				}
				<-reconnected
			}
			waitUntil(t, "a request to reach nobody", func() bool { return len(unserved(client)) > 0 })
			if err := svc.Recheck(t.Context()); err != nil {
				t.Error(err)
			}
			if len(unserved(client)) == 0 {
				t.Error("what the server refuses is served")
			}

			reload("", "")
			waitUntil(t, "the worker to say that all is well", func() bool {
				_ = svc.Recheck(t.Context()) // fails while the connection is on its way back
				return strings.Contains(log.String(), "takes all subscriptions")
			})
			waitUntil(t, "all requests to be served", func() bool { return len(unserved(client)) == 0 })
			expect(t, client, "kv.clear", "", "2")
			if err := client.Publish("store", nil); err != nil {
				t.Error(err)
			}
			if _, err := stores.NextMsg(patience); err != nil {
				t.Errorf("what another user of the connection is subscribed to does not come: %v", err)
			}
			for _, once := range []string{"refuses subscriptions", "takes all subscriptions"} {
				if n := strings.Count(log.String(), once); n != 1 {
					t.Errorf("the log tells %q %d times: %s", once, n, log)
				}
			}
			waitUntil(t, "the refused ones to be gone", func() bool {
				return nc.Flush() == nil && nc.NumSubscriptions() == before
			})
		})
	}
}

// unserved returns those of more subjects than the limit has room for on which there is no
// answer.
func unserved(client *nats.Conn) (subjects []string) {
	for _, subject := range []string{"kv.get.color", "kv.exists.color", "kv.ttl.color", "kv.keys", "kv.keys.c", "kv.info", "kv.incr.n", "kv.touch.n"} {
		// A request to a connection that has just gone gets no answer.
		if _, err := client.Request(subject, nil, time.Second); err != nil {
			subjects = append(subjects, subject)
		}
	}
	return subjects
}

// waitUntil asks until it is so. To ask takes a round trip to the server.
func waitUntil(t *testing.T, what string, is func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); !is(); {
		if time.Now().After(late) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
