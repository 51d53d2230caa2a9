package recipe_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/bus/recipe"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/service"
	"kvbus/watchbridge"
)

const patience = 30 * time.Second

// A worker serves a store on a server.
type worker struct {
	server *server.Server
	store  kv.Store
}

// stores are what the recipes are tried on, over the bus.
var stores = map[string]func(t testing.TB, s *server.Server) kv.Store{
	"memory": func(t testing.TB, _ *server.Server) kv.Store { return newStore(t) },
	"replicated": func(t testing.TB, s *server.Server) kv.Store {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		store, err := replicated.Open(ctx, bustest.Connect(t, s, nats.InProcessServer(s)), replicated.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	},
}

func startWorker(t testing.TB, open func(t testing.TB, s *server.Server) kv.Store) *worker {
	t.Helper()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir(), MaxPayload: 8 << 20})
	w := &worker{server: s, store: open(t, s)}
	nc := bustest.Connect(t, s, nats.InProcessServer(s))
	if _, err := service.Start(t.Context(), nc, w.store, service.Options{ClaimWait: time.Millisecond, Version: "0.0.0"}); err != nil {
		t.Fatal(err)
	}
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	bridge := watchbridge.Start(w.store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial("", nats.InProcessServer(s), nats.NoReconnect())
		},
		Subjects:      subjects,
		IdleHeartbeat: 20 * time.Millisecond,
	})
	t.Cleanup(func() {
		w.store.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := bridge.Wait(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

// connect returns a client with a connection of its own.
func (w *worker) connect(t testing.TB, url string, opts ...nats.Option) *bus.Client {
	t.Helper()
	nc, err := bustest.Dial(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client, err := bus.NewClient(nc, bus.ClientOptions{Prefix: bus.DefaultPrefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

var _ recipe.Source = (*bus.Client)(nil)

func TestLockOverTheBus(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, open)
			exclude(t, w.connect(t, w.server.ClientURL()), 4, 5)
		})
	}
}

// A holder that loses its connection knows in time, and the one who waits has the
// lock then, not before.
func TestLockOfALostConnection(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startWorker(t, open)
			proxy := bustest.StartProxy(t, w.server.Addr().String())
			short := recipe.LockOptions{TTL: 6 * time.Second}
			held, err := recipe.Acquire(t.Context(), w.connect(t, proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond)), "lock", short)
			if err != nil {
				t.Fatal(err)
			}
			proxy.Cut() // it comes back, and the lock is kept
			for event, err := range w.store.Watch(t.Context(), kv.WatchOptions{}) {
				if err != nil || event.Kind != kv.EventSet {
					t.Fatal(event, err)
				}
				break // it is renewed
			}
			if err := held.Err(); err != nil {
				t.Fatal(err)
			}
			proxy.Redirect("127.0.0.1:1") // nobody is there
			next, err := recipe.Acquire(t.Context(), w.connect(t, w.server.ClientURL()), "lock", short)
			if err != nil {
				t.Fatal(err)
			}
			if held.Err() == nil {
				t.Error("two hold the lock")
			}
			if next.Token() <= held.Token() {
				t.Errorf("token %d after %d", next.Token(), held.Token())
			}
			if err := held.Unlock(t.Context()); !errors.Is(err, recipe.ErrLost) {
				t.Errorf("unlock of the lost one: %v", err)
			}
			unlock(t, next)
		})
	}
}

func TestLimiterOverTheBus(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, open)
			limiter, err := recipe.NewLimiter(w.connect(t, w.server.ClientURL()), "limit.", 2, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			for use := range 3 {
				d, err := limiter.Allow(t.Context(), "alice")
				if err != nil || d.Allowed != (use < 2) {
					t.Errorf("use %d: %+v, %v", use, d, err)
				}
				if left := d.RetryAfter(time.Now()); left > time.Hour || left < time.Hour-time.Minute {
					t.Errorf("%v left of an hour", left)
				}
			}
		})
	}
}

func TestElectionOverTheBus(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, open)
			ada, bob := w.connect(t, w.server.ClientURL()), w.connect(t, w.server.ClientURL())
			first := campaign(t, ada, "ada")
			var seen []string
			for leader, err := range recipe.Observe(t.Context(), bob, "leader") {
				if err != nil {
					t.Fatal(err)
				}
				seen = append(seen, leader.Value)
				if leader.Value == "bob" {
					break
				}
				if leader.Value == "ada" {
					if err := first.Resign(t.Context()); err != nil {
						t.Fatal(err)
					}
					second := campaign(t, bob, "bob")
					defer func() {
						if err := second.Resign(context.Background()); err != nil {
							t.Error(err)
						}
					}()
				}
			}
			if seen[0] != "ada" || len(seen) > 3 {
				t.Errorf("seen %q", seen)
			}
		})
	}
}

func TestMirrorOverTheBus(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, open)
			proxy := bustest.StartProxy(t, w.server.Addr().String())
			reader := w.connect(t, proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
			writer := w.connect(t, w.server.ClientURL())
			for i := range 50 {
				set(t, writer, fmt.Sprint("app.", i), "state")
			}
			notices := make(chan bus.Notice, 1024)
			m := newMirror(t, reader, recipe.MirrorOptions{FollowOptions: bus.FollowOptions{
				Prefix:  "app.",
				Silence: 300 * time.Millisecond,
				Notify:  func(n bus.Notice) { notices <- n },
			}})
			waitFor(t, m, w.store, "app.", 0)
			waitFor(t, m, w.store, "app.", set(t, writer, "app.0", "live"))
			set(t, writer, "other", "unseen")
			waitFor(t, m, w.store, "app.", set(t, writer, "app.short", "life", kv.WithTTL(time.Hour)))

			proxy.Cut() // it comes back
			waitFor(t, m, w.store, "app.", set(t, writer, "app.1", "after a reconnect"))
			awaitStale(t, m, false)

			proxy.Redirect("127.0.0.1:1") // nobody is there
			awaitStale(t, m, true)
			last := set(t, writer, "app.2", "meanwhile")
			if status := m.Status(); !status.Stale || !status.Ready || status.Revision >= last {
				t.Errorf("%+v at %d", status, last)
			}
			if entry, err := m.Get("app.2"); entry.Value != "state" || err != nil {
				t.Errorf("%v, %v", entry, err)
			}
			proxy.Redirect(w.server.Addr().String())
			waitFor(t, m, w.store, "app.", last)
			awaitStale(t, m, false)
			awaitNotice(t, notices, bus.NoticeStale)
			awaitNotice(t, notices, bus.NoticeLive)
		})
	}
}

// The event of a mirrored key is lost without a sign, and the store no longer holds it
// when the watch looks.
func TestMirrorAfterALossThatNothingTells(t *testing.T) {
	t.Parallel()
	const ring = 16
	w := &worker{
		server: bustest.StartServer(t, server.Options{}),
		store:  memory.New(memory.Options{ReplayEvents: ring}),
	}
	t.Cleanup(func() { w.store.Close() })
	nc := bustest.Connect(t, w.server)
	if _, err := service.Start(t.Context(), nc, w.store, service.Options{ClaimWait: time.Millisecond, Version: "0.0.0"}); err != nil {
		t.Fatal(err)
	}
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := nc.SubscribeSync(bus.DefaultPrefix + ".replay.>")
	if err != nil {
		t.Fatal(err)
	}
	m := newMirror(t, w.connect(t, w.server.ClientURL()), recipe.MirrorOptions{FollowOptions: bus.FollowOptions{
		Prefix:        "app.",
		AuditInterval: time.Second,
		Settle:        time.Millisecond,
		Silence:       time.Hour,
	}})
	<-m.Ready()
	// The test publishes. The first audit comes soon after the start, and finds all.
	event := kv.Event{Kind: kv.EventSet, Key: "app.a", Revision: set(t, w.store, "app.a", ""), Time: time.Now()}
	var e bus.Encoder
	if err := nc.PublishMsg(e.Event(subjects, event)); err != nil {
		t.Fatal(err)
	}
	if _, err := asked.NextMsg(patience); err != nil {
		t.Fatal(err)
	}
	lost := set(t, w.store, "app.color", "blue")
	for range ring {
		set(t, w.store, "other", "")
	}
	if err := nc.PublishMsg(subjects.EncodeHeartbeat(bus.Heartbeat{Revision: lost + ring})); err != nil {
		t.Fatal(err)
	}
	waitFor(t, m, w.store, "app.", lost)
	awaitStale(t, m, false)
}

// What permissions forbid is not tried for ever.
func TestLockThatIsForbidden(t *testing.T) {
	user := func(name string, permissions *server.Permissions) *server.User {
		return &server.User{Username: name, Password: name, Permissions: permissions}
	}
	s := bustest.StartServer(t, server.Options{Users: []*server.User{
		user("worker", nil),
		user("reader", &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"kv.get.>"}}}),
	}})
	w := &worker{server: s, store: newStore(t)}
	nc := bustest.Connect(t, s, nats.UserInfo("worker", "worker"))
	if _, err := service.Start(t.Context(), nc, w.store, service.Options{ClaimWait: time.Millisecond, Version: "0.0.0"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := recipe.Acquire(ctx, w.connect(t, s.ClientURL(), nats.UserInfo("reader", "reader")), "lock", recipe.LockOptions{})
	if !errors.Is(err, bus.ErrForbidden) || ctx.Err() != nil {
		t.Errorf("%v", err)
	}
}

// awaitStale waits until a mirror is stale, or is not. Its notices tell of more: that
// of a reconnect may have been stale for a moment.
func awaitStale(t *testing.T, m *recipe.Mirror, want bool) {
	t.Helper()
	for late := time.Now().Add(patience); m.Status().Stale != want; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%+v; want stale: %v", m.Status(), want)
		}
	}
}

// awaitNotice waits for a notice of this kind.
func awaitNotice(t *testing.T, notices <-chan bus.Notice, kind bus.NoticeKind) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case n := <-notices:
			if n.Kind == kind {
				return
			}
		case <-deadline:
			t.Fatalf("no notice %v", kind)
		}
	}
}
