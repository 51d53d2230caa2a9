package watchbridge_test

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/watchbridge"
)

const patience = 30 * time.Second

// A stage is a store, a bridge to a server by way of a proxy, and a subscriber
// on that server.
type stage struct {
	server   *server.Server
	store    *memory.Store
	handle   kv.Handle
	bridge   *watchbridge.Bridge
	proxy    *bustest.Proxy
	subjects bus.Subjects
	events   *nats.Subscription
}

func start(t *testing.T, opts memory.Options) *stage {
	t.Helper()
	return startLogged(t, opts, io.Discard)
}

// startLogged is start with the log of the bridge.
func startLogged(t *testing.T, opts memory.Options, log io.Writer) *stage {
	t.Helper()
	s := bustest.StartServer(t, server.Options{})
	subjects := defaultSubjects(t)
	st := &stage{server: s, store: memory.New(opts), proxy: bustest.StartProxy(t, s.Addr().String()), subjects: subjects}
	t.Cleanup(func() { st.store.Close() })
	st.handle = kv.Of(st.store)
	listener := bustest.Connect(t, s)
	var err error
	if st.events, err = listener.SubscribeSync(subjects.EventPattern(kv.Filter{})); err != nil {
		t.Fatal(err)
	}
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	st.bridge = watchbridge.Start(st.store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial(st.proxy.URL(), nats.NoReconnect())
		},
		Subjects: subjects,
		Logger:   slog.New(slog.NewTextHandler(log, nil)),
	})
	return st
}

func (st *stage) next(t *testing.T) kv.Event {
	t.Helper()
	m, err := st.events.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	event, err := st.subjects.DecodeEvent(m)
	if err != nil {
		t.Fatal(err)
	}
	return event
}

func (st *stage) set(t *testing.T, key, value string, opts ...kv.WriteOption) {
	t.Helper()
	if _, err := st.handle.Set(t.Context(), key, value, opts...); err != nil {
		t.Fatal(err)
	}
}

// finish closes the store and waits for the bridge.
func (st *stage) finish(t *testing.T) {
	t.Helper()
	st.store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := st.bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestEveryMutation(t *testing.T) {
	st := start(t, memory.Options{})
	st.set(t, "a..b", "1")
	st.set(t, "short", "2", kv.WithTTL(time.Millisecond))
	want := []struct {
		kind     kv.EventKind
		key      string
		previous uint64
	}{
		{kv.EventSet, "a..b", 0},
		{kv.EventSet, "short", 0},
		{kv.EventExpire, "short", 2},
		{kv.EventTouch, "a..b", 1},
		{kv.EventDelete, "a..b", 4},
	}
	for i, w := range want {
		switch w.kind {
		case kv.EventTouch:
			if _, err := st.handle.Touch(t.Context(), w.key, time.Hour); err != nil {
				t.Fatal(err)
			}
		case kv.EventDelete:
			if _, err := st.handle.Delete(t.Context(), w.key); err != nil {
				t.Fatal(err)
			}
		}
		event := st.next(t)
		if event.Kind != w.kind || event.Key != w.key || event.Revision != uint64(i+1) || event.PreviousRevision != w.previous {
			t.Errorf("event %d is %+v, want %+v", i+1, event, w)
		}
	}
	st.finish(t)
	if stats := st.bridge.Stats(); stats != (watchbridge.Stats{Published: 5, Revision: 5}) {
		t.Errorf("the counts are %+v", stats)
	}
}

// Events that the server does not take from the bridge's user are counted, and told
// once; the others go on.
func TestRefusedEvents(t *testing.T) {
	s := bustest.StartServer(t, server.Options{Users: []*server.User{
		{Username: "worker", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"kv.events.secret.>", "kv.revision"}}}},
		{Username: "watcher"},
	}})
	subjects := defaultSubjects(t)
	watcher := bustest.Connect(t, s, nats.UserInfo("watcher", ""))
	events, err := watcher.SubscribeSync("kv.events.>")
	if err == nil {
		err = watcher.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	store := memory.New(memory.Options{})
	defer store.Close()
	var log strings.Builder
	others := make(chan error, 10)
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial(s.ClientURL(), nats.NoReconnect(), nats.UserInfo("worker", ""),
				nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { others <- err }))
		},
		Subjects: subjects,
		Logger:   slog.New(slog.NewTextHandler(&log, nil)),
	})
	for i := range 10 {
		for _, key := range []string{"secret.", "open."} {
			if _, err := kv.Of(store).Set(t.Context(), key+strconv.Itoa(i), ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitFor(t, func() bool { return bridge.Stats() == watchbridge.Stats{Published: 20, Lost: 10, Revision: 20} })
	if err := <-others; !strings.Contains(err.Error(), "kv.revision") {
		t.Errorf("the handler of the connection is told of %v", err)
	}
	store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if count := strings.Count(log.String(), "secret"); count != 1 {
		t.Errorf("it is told %d times:\n%s", count, log.String())
	}
	for i := range 10 {
		if m, err := events.NextMsg(patience); err != nil || m.Subject != "kv.events.open."+strconv.Itoa(i) {
			t.Fatalf("message %d is %v, %v", i, m, err)
		}
	}
}

// An event that is larger than what the server takes is lost, and counted; it does not
// hold up those after it.
func TestEventTooLargeForTheBus(t *testing.T) {
	s := bustest.StartServer(t, server.Options{MaxPayload: 4096})
	subjects := defaultSubjects(t)
	events := listen(t, s, "kv.events.>")
	store := memory.New(memory.Options{})
	defer store.Close()
	for _, value := range []string{"before", strings.Repeat("v", 5000), "after"} {
		if _, err := kv.Of(store).Set(t.Context(), "k", value); err != nil {
			t.Fatal(err)
		}
	}
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial:     func(context.Context) (*nats.Conn, error) { return bustest.Dial(s.ClientURL(), nats.NoReconnect()) },
		Subjects: subjects,
	})
	for _, want := range []string{"before", "after"} {
		if m, err := events.NextMsg(patience); err != nil || string(m.Data) != want {
			t.Fatalf("%v comes, %v, want %q", m, err, want)
		}
	}
	store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if stats := bridge.Stats(); stats != (watchbridge.Stats{Published: 2, Lost: 1, Revision: 3}) {
		t.Errorf("the counts are %+v", stats)
	}
}

// What the ring can't hold while the bus is away is a gap that is counted; the
// bridge goes on after it.
func TestBusAwayForTooLong(t *testing.T) {
	st := start(t, memory.Options{ReplayEvents: 10})
	st.set(t, "k", "before")
	if event := st.next(t); event.Value != "before" {
		t.Fatalf("the first event is %+v", event)
	}
	waitFor(t, func() bool { return st.bridge.Stats().Revision == 1 })

	st.proxy.Redirect("127.0.0.1:1") // nobody is there
	for i := range 100 {
		st.set(t, "k", strconv.Itoa(i))
	}
	st.proxy.Redirect(st.server.Addr().String())
	for revision := uint64(92); revision <= 101; revision++ {
		if event := st.next(t); event.Revision != revision {
			t.Fatalf("revision %d came, want %d", event.Revision, revision)
		}
	}
	st.finish(t)
	if stats := st.bridge.Stats(); stats.Lost != 90 || stats.Revision != 101 {
		t.Errorf("the counts are %+v", stats)
	}
}

// A lagging source has ten events. When it drops them, and ten more, one is left.
type lagging struct{ drops, told chan struct{} }

func (l lagging) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	after, _ := opts.Start.Revision()
	return func(yield func(kv.Event, error) bool) {
		give := func(revision uint64) bool {
			return yield(kv.Event{Kind: kv.EventSet, Key: "k", Revision: revision, PreviousRevision: revision - 1, Time: time.Now()}, nil)
		}
		select {
		case <-l.drops:
			if after < 20 {
				yield(kv.Event{}, kv.ErrCompacted)
				return
			}
		default:
			for after < 10 {
				if after++; !give(after) {
					return
				}
			}
			select {
			case <-l.drops:
			case <-ctx.Done():
				yield(kv.Event{}, ctx.Err())
				return
			}
			close(l.told)
			if !yield(kv.Event{}, &kv.LagError{First: 11, Last: 20}) {
				return
			}
		}
		if give(21) {
			<-ctx.Done()
			yield(kv.Event{}, ctx.Err())
		}
	}
}

func (l lagging) Info(context.Context) (kv.Info, error) {
	return kv.Info{Revision: 21, OldestRevision: 21}, nil
}

// Events that the server did not confirm before those after them were dropped are
// lost as well where the connection breaks then.
func TestUnconfirmedBeforeALag(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	proxy := bustest.StartProxy(t, s.Addr().String())
	subjects := defaultSubjects(t)
	events := listen(t, s, "kv.events.>")
	var once sync.Once
	source := lagging{drops: make(chan struct{}), told: make(chan struct{})}
	bridge := watchbridge.Start(source, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			nc, err := bustest.Dial(proxy.URL(), nats.NoReconnect())
			once.Do(func() { proxy.Pace(0) })
			return nc, err
		},
		Subjects: subjects,
	})
	waitFor(t, func() bool { return bridge.Stats().Published == 10 })
	close(source.drops)
	<-source.told
	proxy.Cut()
	proxy.Pace(bustest.Free)
	m, err := events.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if event, err := subjects.DecodeEvent(m); err != nil || event.Revision != 21 {
		t.Errorf("the first event is %+v, %v", event, err)
	}
	waitFor(t, func() bool { return bridge.Stats().Revision == 21 })
	if stats := bridge.Stats(); stats.Lost != 20 {
		t.Errorf("of 21 events one came; the counts are %+v", stats)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = bridge.Wait(ctx) // the source has no end
}

func defaultSubjects(t *testing.T) bus.Subjects {
	t.Helper()
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return subjects
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
		time.Sleep(time.Millisecond)
	}
}
