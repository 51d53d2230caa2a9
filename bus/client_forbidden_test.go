package bus_test

import (
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

// guardedBus is a server with a store on it and users: app has the keys under
// "app." and nothing else, mute can't receive an answer, reader may ask for all keys
// and watch those.
func guardedBus(t *testing.T) *server.Server {
	t.Helper()
	s := startBusServer(t, server.Options{Users: []*server.User{
		{Username: "worker", Password: "secret"},
		{Username: "app", Password: "secret", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"kv.*.app.>", "kv.*.ä.>"}, Deny: []string{"kv.events.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"kv.events.app.>", "_INBOX.app.>"}},
		}},
		{Username: "mute", Password: "secret", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"kv.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"kv.events.>"}},
		}},
		{Username: "reader", Password: "secret", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"kv.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>", "kv.events.app.>"}},
		}},
	}})
	svc, err := service.Start(t.Context(), bustest.Connect(t, s, nats.UserInfo("worker", "secret")), memory.New(memory.Options{}), service.Options{ClaimWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.Stop(within(t, watchPatience)); err != nil {
			t.Error(err)
		}
	})
	return s
}

func quiet(*nats.Conn, *nats.Subscription, error) {}

func TestForbidden(t *testing.T) {
	s := guardedBus(t)
	client := newClient(t, bustest.Connect(t, s, nats.UserInfo("app", "secret"), nats.CustomInboxPrefix("_INBOX.app"), nats.ErrorHandler(quiet)), bus.ClientOptions{})
	h := kv.Of(client)
	ctx := within(t, 4*watchPatience)
	for range 2 {
		start := time.Now()
		for name, call := range map[string]func() error{
			"set":    func() error { _, err := h.Set(ctx, "other", ""); return err },
			"quoted": func() error { _, err := h.Set(ctx, "名.前/𐐷", ""); return err },
			"get":    func() error { _, err := h.Get(ctx, "app"); return err },
			"scan":   func() error { _, err := client.Scan(ctx, kv.Query{}); return err },
			"replay": func() error { _, err := client.Replay(ctx, kv.ReplayQuery{Prefix: "other"}); return err },
			"info":   func() error { _, err := client.Info(ctx); return err },
			"ttl":    func() error { _, _, err := client.TTL(ctx, "other", kv.ReadOptions{}); return err },
		} {
			wantError(t, name, call(), bus.ErrForbidden, kv.ErrUnavailable)
		}
		if took := time.Since(start); took > watchPatience/2 {
			t.Errorf("it took %v to notice", took)
		}
		for _, key := range []string{"app.color", "ä.color"} {
			if _, err := h.Set(ctx, key, "blue"); err != nil {
				t.Errorf("what is allowed: %v", err)
			}
		}
	}
	if page, err := client.Scan(ctx, kv.Query{Prefix: "app."}); err != nil || len(page.Entries) != 1 {
		t.Errorf("a scan of what is allowed: %+v, %v", page, err)
	}
	wantError(t, "a watch of what is forbidden", firstError(client.Watch(ctx, kv.WatchOptions{Prefix: "other."})), bus.ErrForbidden)
}

// Who may read and watch some keys may also watch them by a filter: the store is
// asked for these alone.
func TestFilterOfWhatIsAllowed(t *testing.T) {
	s := guardedBus(t)
	client := newClient(t, bustest.Connect(t, s, nats.UserInfo("app", "secret"), nats.CustomInboxPrefix("_INBOX.app"), nats.ErrorHandler(quiet)), bus.ClientOptions{})
	ctx := within(t, watchPatience)
	set := func(value string) {
		t.Helper()
		if _, err := kv.Of(client).Set(ctx, "app.color", value); err != nil {
			t.Fatal(err)
		}
	}
	set("red")
	next, stop := iter.Pull2(client.Follow(ctx, quick(bus.FollowOptions{Filter: parseFilter(t, "app.>"), State: true})))
	defer stop()
	want := func(kind bus.ChangeKind) {
		t.Helper()
		if change, err, _ := next(); err != nil || change.Kind != kind {
			t.Fatalf("%+v, %v; want %v", change, err, kind)
		}
	}
	want(bus.ChangeState)
	want(bus.ChangeReady)
	set("green")
	want(bus.ChangeEvent) // nothing is published here: it is asked for
}

// Who may read keys and not watch them is told so, and is no watcher that hears of
// changes late.
func TestForbiddenEvents(t *testing.T) {
	s := guardedBus(t)
	nc := bustest.Connect(t, s, nats.UserInfo("reader", "secret"), nats.ErrorHandler(quiet))
	client := newClient(t, nc, bus.ClientOptions{})
	ctx := within(t, watchPatience)
	for range 2 {
		for _, opts := range []bus.FollowOptions{{}, {State: true}, {Prefix: "other."}, {Start: kv.After(0)}} {
			wantError(t, fmt.Sprintf("%+v", opts), firstError(client.Follow(ctx, opts)), bus.ErrForbidden)
		}
		changes, stop := iter.Pull2(client.Follow(ctx, bus.FollowOptions{Prefix: "app.", State: true}))
		if change, err, _ := changes(); err != nil || change.Kind != bus.ChangeReady {
			t.Errorf("what is allowed: %+v, %v", change, err)
		}
		stop()
	}
}

// An usher lets everybody do everything, until it is told what they may subscribe to.
type usher struct {
	subscribe atomic.Pointer[server.SubjectPermission]
}

func (u *usher) Check(c server.ClientAuthentication) bool {
	var permissions *server.Permissions
	if subscribe := u.subscribe.Load(); subscribe != nil {
		permissions = &server.Permissions{Subscribe: subscribe}
	}
	c.RegisterUser(&server.User{Permissions: permissions})
	return true
}

// Watches end when the connection comes back and may not have the events any more,
// however many there are, and whatever else is forbidden. So do those that start then.
func TestEventsForbiddenLater(t *testing.T) {
	for name, allowed := range map[string][]string{"events": {"_INBOX.>", "kv.revision"}, "all but answers": {"_INBOX.>"}} {
		t.Run(name, func(t *testing.T) {
			u := new(usher)
			s := startBusServer(t, server.Options{CustomClientAuthentication: u})
			startBus(t, s, memory.New(memory.Options{}), service.Options{})
			proxy := bustest.StartProxy(t, s.Addr().String())
			nc, err := bustest.Dial(proxy.URL(), append(reconnecting(), nats.ErrorHandler(quiet))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			client := newClient(t, nc, bus.ClientOptions{})
			ctx := within(t, watchPatience)
			filters := []string{">", "a.>", "b.>", "c.>"}
			var ready sync.WaitGroup
			ends := make(chan error)
			watch := func(filter string, started func()) {
				for change, err := range client.Follow(ctx, bus.FollowOptions{Filter: parseFilter(t, filter), State: true}) {
					if err != nil {
						ends <- err
					} else if change.Kind == bus.ChangeReady {
						started()
					}
				}
			}
			for _, filter := range filters {
				ready.Add(1)
				go watch(filter, ready.Done)
			}
			ready.Wait()
			u.subscribe.Store(&server.SubjectPermission{Allow: allowed})
			proxy.Cut()
			for range filters {
				wantError(t, "a watch of what is forbidden by now", <-ends, bus.ErrForbidden)
			}
			for _, filter := range filters {
				go watch(filter, func() { t.Errorf("a watch of %s has started", filter) })
			}
			for range filters {
				wantError(t, "a watch of what is forbidden", <-ends, bus.ErrForbidden)
			}
		})
	}
}

// A watch by one who may not ask for the age of the store goes on when the
// connection has come back.
func TestForbiddenAge(t *testing.T) {
	s := guardedBus(t)
	proxy := bustest.StartProxy(t, s.Addr().String())
	nc, err := bustest.Dial(proxy.URL(), append(reconnecting(), nats.UserInfo("app", "secret"), nats.CustomInboxPrefix("_INBOX.app"), nats.ErrorHandler(quiet))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client := newClient(t, nc, bus.ClientOptions{})
	ctx := within(t, watchPatience)
	changes, stop := iter.Pull2(client.Follow(ctx, quick(bus.FollowOptions{Prefix: "app."})))
	defer stop()
	writer := newClient(t, bustest.Connect(t, s, nats.UserInfo("worker", "secret")), bus.ClientOptions{})
	for i := range 3 {
		key := fmt.Sprint("app.", i)
		if _, err := kv.Of(writer).Set(ctx, key, ""); err != nil {
			t.Fatal(err)
		}
		if change, err, _ := changes(); err != nil || change.Event.Key != key {
			t.Fatalf("%+v, %v", change, err)
		}
		proxy.Cut()
	}
}

func firstError[T any](items iter.Seq2[T, error]) error {
	for _, err := range items {
		return err
	}
	return nil
}

// Of many at a time, the last error of the connection tells of one only.
func TestForbiddenManyAtATime(t *testing.T) {
	const calls = 200
	s := guardedBus(t)
	var client *bus.Client
	ready := make(chan struct{})
	nc := bustest.Connect(t, s, nats.UserInfo("app", "secret"), nats.CustomInboxPrefix("_INBOX.app"),
		nats.ErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
			<-ready
			client.HandleError(nc, sub, err)
		}))
	client = newClient(t, nc, bus.ClientOptions{})
	close(ready)
	h := kv.Of(client)
	ctx := within(t, watchPatience)
	var all sync.WaitGroup
	for i := range calls {
		all.Go(func() {
			_, err := h.Set(ctx, fmt.Sprint("other.", i), "")
			wantError(t, "one of many", err, bus.ErrForbidden)
		})
		all.Go(func() {
			if _, err := h.Set(ctx, fmt.Sprint("app.", i), ""); err != nil {
				t.Errorf("what is allowed beside it: %v", err)
			}
		})
	}
	all.Wait()
}

// Who can't receive an answer is told so before anything is sent, whether the connection
// was refused the answers before the first call or when it came back.
func TestForbiddenInbox(t *testing.T) {
	none := &server.SubjectPermission{Allow: []string{"none"}}
	for name, begins := range map[string]*server.SubjectPermission{"at once": none, "later": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := new(usher)
			s := startBusServer(t, server.Options{CustomClientAuthentication: u})
			store := memory.New(memory.Options{})
			startBus(t, s, store, service.Options{})
			proxy := bustest.StartProxy(t, s.Addr().String())
			u.subscribe.Store(begins)
			back := make(chan struct{}, 1)
			nc, err := bustest.Dial(proxy.URL(), append(reconnecting(), nats.ErrorHandler(quiet),
				nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			client := newClient(t, nc, bus.ClientOptions{})
			if begins == nil {
				u.subscribe.Store(none)
				proxy.Cut()
				<-back
			}
			if err := nc.Flush(); err != nil { // the subscription is refused by now
				t.Fatal(err)
			}
			ctx := within(t, watchPatience)
			_, err = kv.Of(client).Set(ctx, "key", "")
			wantError(t, "a write", err, bus.ErrForbidden)
			_, err = kv.Of(client).Get(ctx, "key")
			wantError(t, "a read", err, bus.ErrForbidden)
			if ctx.Err() != nil {
				t.Error("it took as long as the calls had")
			}
			_, err = kv.Of(store).Get(t.Context(), "key")
			wantError(t, "what a write that is forbidden leaves", err, kv.ErrNotFound)
		})
	}
}

// What is forbidden may be told by the handler of the connection, where another error
// came after it.
func TestForbiddenInboxBeforeAnotherError(t *testing.T) {
	s := guardedBus(t)
	errs := make(chan error, 2)
	nc := bustest.Connect(t, s, nats.UserInfo("mute", "secret"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
	client := newClient(t, nc, bus.ClientOptions{})
	if _, err := nc.SubscribeSync("other"); err != nil {
		t.Fatal(err)
	}
	first, _ := <-errs, <-errs
	client.HandleError(nc, nil, first)
	_, err := kv.Of(client).Get(within(t, watchPatience), "key")
	wantError(t, "a read", err, bus.ErrForbidden)
}
