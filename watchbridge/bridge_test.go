package watchbridge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"
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
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
	st := &stage{server: s, store: memory.New(opts), proxy: bustest.StartProxy(t, s.Addr().String()), subjects: subjects}
	t.Cleanup(func() { st.store.Close() })
	st.handle = kv.Of(st.store)
	listener := bustest.Connect(t, s)
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

// Connections that break at any moment leave no event out and change no order.
func TestBrokenConnections(t *testing.T) {
	st := start(t, memory.Options{})
	const events = 3000
	for i := range events {
		st.set(t, fmt.Sprint("k", i%7), strconv.Itoa(i))
		if i%500 == 250 {
			st.proxy.Cut()
		}
	}
	next := uint64(1)
	for next <= events {
		event := st.next(t)
		if event.Revision > next {
			t.Fatalf("revision %d came before %d", event.Revision, next)
		}
		if event.Revision == next {
			if want := strconv.Itoa(int(next - 1)); event.Value != want {
				t.Fatalf("revision %d has value %q, want %q", next, event.Value, want)
			}
			next++
		}
	}
	st.finish(t)
	if stats := st.bridge.Stats(); stats.Lost != 0 || stats.Revision != events {
		t.Errorf("the counts are %+v", stats)
	}
}

// A connection that breaks as soon as it is made is noticed though nothing is
// to be published.
func TestBrokenAtOnce(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := memory.New(memory.Options{})
	defer store.Close()
	dials := make(chan struct{}, 1)
	watchbridge.Start(store, watchbridge.Options{Dial: func(context.Context) (*nats.Conn, error) {
		nc, err := bustest.Dial(s.ClientURL(), nats.NoReconnect())
		if err == nil {
			nc.Close()
		}
		select {
		case dials <- struct{}{}:
		default:
		}
		return nc, err
	}})
	for range 3 {
		select {
		case <-dials:
		case <-time.After(patience):
			t.Fatal("the bridge stays on a connection that is closed")
		}
	}
}

// Where no connection can be made, the log has it once, however often it is tried.
func TestRefusedConnections(t *testing.T) {
	store := memory.New(memory.Options{})
	var log strings.Builder
	dials := make(chan time.Time, 5)
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			select {
			case dials <- time.Now():
			default:
			}
			return nil, nats.ErrAuthorization
		},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	first := <-dials
	for range cap(dials) - 2 {
		<-dials
	}
	if took := (<-dials).Sub(first); took < time.Second {
		t.Errorf("%d attempts in %v", cap(dials), took)
	}
	store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if count := strings.Count(log.String(), nats.ErrAuthorization.Error()); count != 1 {
		t.Errorf("it is told %d times:\n%s", count, log.String())
	}
}

// Events that the server does not take from the bridge's user are counted, and told
// once; the others go on.
func TestRefusedEvents(t *testing.T) {
	s := bustest.StartServer(t, server.Options{Users: []*server.User{
		{Username: "worker", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"kv.events.secret.>", "kv.revision"}}}},
		{Username: "watcher"},
	}})
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
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
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
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

// On a slow connection little is on its way that is not confirmed: the answers come
// in time, however much there is to publish.
func TestSlowConnection(t *testing.T) {
	t.Parallel()
	st := start(t, memory.Options{ReplayBytes: 1 << 30})
	st.proxy.Pace(8 << 20)
	const events, size, bound = 100, 100_000, 512 << 10
	for range events {
		st.set(t, "k", strings.Repeat("v", size))
	}
	most := uint64(0)
	waitFor(t, func() bool {
		stats := st.bridge.Stats()
		most = max(most, stats.Published-min(stats.Revision, stats.Published))
		return stats.Revision == events
	})
	if most*size > bound {
		t.Errorf("%d bytes were published and not confirmed; want at most %d", most*size, bound)
	}
	if stats := st.bridge.Stats(); stats.Published != events {
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
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
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

// A bridge whose connections come to nothing makes them more and more rarely.
func TestConnectionsInVain(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
	store := memory.New(memory.Options{})
	t.Cleanup(func() { store.Close() })
	dials := make(chan time.Time, 5)
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(ctx context.Context) (*nats.Conn, error) {
			select {
			case dials <- time.Now():
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			nc, err := bustest.Dial(s.ClientURL(), nats.NoReconnect())
			if err == nil {
				nc.Close()
			}
			return nc, err
		},
		Subjects: subjects,
	})
	var last time.Time
	for i := range 5 {
		at := <-dials
		if least := 50 * time.Millisecond << i; i > 0 && at.Sub(last) < least {
			t.Errorf("dial %d comes %v after the one before; want at least %v", i, at.Sub(last), least)
		}
		last = at
	}
	store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// A failing source ends the watches of one session after the other with an error, and is
// closed in the end.
type failing struct {
	watchbridge.Source
	session  *atomic.Int64 // counted from 1
	failures []string
}

func (f failing) Watch(context.Context, kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		// Another watch of a session is before it has its connection.
		if i := max(f.session.Load(), 1); int(i) > len(f.failures) {
			yield(kv.Event{}, kv.ErrClosed)
		} else {
			yield(kv.Event{}, errors.New(f.failures[i-1]))
		}
	}
}

// What ends one session after the other is told once, until it is something else.
func TestSameFailureIsToldOnce(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
	store := memory.New(memory.Options{})
	t.Cleanup(func() { store.Close() })
	told := make(chan string, 10)
	source := failing{store, new(atomic.Int64), []string{"one", "one", "another"}}
	bridge := watchbridge.Start(source, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			nc, err := bustest.Dial(s.ClientURL(), nats.NoReconnect())
			source.session.Add(1)
			return nc, err
		},
		Subjects: subjects,
		Logger:   slog.New(slog.NewTextHandler(logWriter(func(line string) { told <- line }), nil)),
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Error(err)
	}
	close(told)
	var failures []string
	for line := range told {
		_, text, _ := strings.Cut(line, " error=")
		failures = append(failures, strings.Fields(text)[0])
	}
	if want := []string{"one", "another"}; !slices.Equal(failures, want) {
		t.Errorf("the log tells of %q, want %q", failures, want)
	}
}
