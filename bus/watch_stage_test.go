package bus_test

import (
	"context"
	"errors"
	"slices"
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
	"kvbus/watchbridge"
)

const watchPatience = 30 * time.Second

// A watchStage is a server with a worker on it, and a proxy through which
// watchers connect.
type watchStage struct {
	*testWorker
	server *server.Server
	proxy  *bustest.Proxy // of the watchers
	// workerProxy is that of the workers.
	workerProxy *bustest.Proxy
	subjects    bus.Subjects
}

// A testWorker is a store in memory with its service and its bridge.
type testWorker struct {
	store *memory.Store
	kv.Handle
	nc      *nats.Conn
	service *service.Service
	bridge  *watchbridge.Bridge
	stopped bool
}

func newWatchStage(t testing.TB, opts memory.Options) *watchStage {
	t.Helper()
	s := bustest.StartServer(t, server.Options{})
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
	st := &watchStage{
		server:      s,
		proxy:       bustest.StartProxy(t, s.Addr().String()),
		workerProxy: bustest.StartProxy(t, s.Addr().String()),
		subjects:    subjects,
	}
	st.testWorker = st.startWorker(t, opts, 20*time.Millisecond)
	return st
}

// startWorker starts a worker that sends heartbeats that often, none for 0.
func (st *watchStage) startWorker(t testing.TB, opts memory.Options, beat time.Duration) *testWorker {
	t.Helper()
	w := &testWorker{store: memory.New(opts)}
	w.Handle = kv.Of(w.store)
	w.serve(t, st)
	if beat == 0 {
		beat = time.Hour
	}
	w.bridge = watchbridge.Start(w.store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial(st.workerProxy.URL(), nats.NoReconnect())
		},
		Subjects:       st.subjects,
		BurstHeartbeat: beat,
		IdleHeartbeat:  5 * beat,
	})
	t.Cleanup(func() { w.stop(t) })
	return w
}

func (w *testWorker) serve(t testing.TB, st *watchStage) {
	t.Helper()
	var err error
	if w.nc, err = bustest.Dial(st.workerProxy.URL(), reconnecting()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.nc.Close)
	if w.service, err = service.Start(t.Context(), w.nc, w.store, service.Options{Subjects: st.subjects, WorkerName: "test", Version: "0.0.0"}); err != nil {
		t.Fatal(err)
	}
}

// reconnecting are options of a connection that comes back at once.
func reconnecting() []nats.Option {
	return []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0)}
}

// stop ends a worker as kvbus does.
func (w *testWorker) stop(t testing.TB) {
	if w.stopped {
		return
	}
	w.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), watchPatience)
	defer cancel()
	if err := w.service.Stop(ctx); err != nil {
		t.Errorf("stop the service: %v", err)
	}
	w.store.Close()
	if err := w.bridge.Wait(ctx); err != nil {
		t.Errorf("stop the bridge: %v", err)
	}
	w.nc.Close()
}

func (w *testWorker) set(t testing.TB, key, value string) uint64 {
	t.Helper()
	revision, err := w.Set(context.Background(), key, value)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// quick has watches notice everything soon.
func quick(opts bus.FollowOptions) bus.FollowOptions {
	opts.AuditInterval = 50 * time.Millisecond
	opts.Silence = 500 * time.Millisecond
	opts.Settle = 10 * time.Millisecond
	return opts
}

// client connects through the proxy.
func (st *watchStage) client(t testing.TB) *bus.Client {
	t.Helper()
	nc, err := bustest.Dial(st.proxy.URL(), reconnecting()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client, err := bus.NewClient(nc, bus.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// A watcher collects what a watch gives.
type watcher struct {
	t       testing.TB
	notices atomic.Pointer[[]bus.Notice]
	hold    sync.Mutex // held by a test: the consumer does not go on

	mu      sync.Mutex
	changes []bus.Change
	err     error         // how the watch ended
	more    chan struct{} // there are more changes, or the end
}

func (st *watchStage) follow(t testing.TB, client *bus.Client, opts bus.FollowOptions) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{t: t, more: make(chan struct{}, 1)}
	w.notices.Store(&[]bus.Notice{})
	opts.Notify = func(n bus.Notice) {
		all := append(slices.Clone(*w.notices.Load()), n)
		w.notices.Store(&all)
	}
	seq := client.Follow(ctx, opts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for change, err := range seq {
			w.hold.Lock()
			w.hold.Unlock() //nolint:staticcheck // it waits for the test
			w.collect(change, err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *watcher) collect(change bus.Change, err error) {
	w.mu.Lock()
	if w.err = err; err == nil {
		w.changes = append(w.changes, change)
	}
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// take waits for the next change, or for the end of the watch.
func (w *watcher) take() (bus.Change, error) {
	w.t.Helper()
	late := time.After(watchPatience)
	for {
		w.mu.Lock()
		if len(w.changes) > 0 {
			change := w.changes[0]
			w.changes = w.changes[1:]
			w.mu.Unlock()
			return change, nil
		}
		err := w.err
		w.mu.Unlock()
		if err != nil {
			return bus.Change{}, err
		}
		select {
		case <-w.more:
		case <-late:
			w.t.Fatalf("nothing came; notices %+v", *w.notices.Load())
		}
	}
}

func (w *watcher) next() bus.Change {
	w.t.Helper()
	change, err := w.take()
	if err != nil {
		w.t.Fatalf("the watch ended: %v", err)
	}
	return change
}

func (w *watcher) event() kv.Event {
	w.t.Helper()
	c := w.next()
	if c.Kind != bus.ChangeEvent {
		w.t.Fatalf("%v came, want an event: %+v", c.Kind, c)
	}
	return c.Event
}

func (w *watcher) ends(want error) {
	w.t.Helper()
	for {
		if _, err := w.take(); errors.Is(err, want) {
			return
		} else if err != nil {
			w.t.Fatalf("the watch ended with %v, want %v", err, want)
		}
	}
}

// left returns the changes that came and were not taken.
func (w *watcher) left() []bus.Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes
}

func (w *watcher) noticed(kind bus.NoticeKind) bool {
	return slices.ContainsFunc(*w.notices.Load(), func(n bus.Notice) bool { return n.Kind == kind })
}

func (w *watcher) awaitNotice(kind bus.NoticeKind) {
	w.t.Helper()
	for end := time.Now().Add(watchPatience); !w.noticed(kind); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("no notice %v among %+v", kind, *w.notices.Load())
		}
	}
}

// matches compares what the watch gave with the history of the store.
func (w *watcher) matches(history []kv.Event) {
	w.t.Helper()
	for i, want := range history {
		if got := w.event(); got != want {
			w.t.Fatalf("event %d of %d:\n got %+v\nwant %+v", i, len(history), got, want)
		}
	}
}

func (w *testWorker) history(t testing.TB, opts bus.FollowOptions, after uint64) []kv.Event {
	t.Helper()
	replay, err := w.store.Replay(context.Background(), kv.ReplayQuery{After: after, Prefix: opts.Prefix, Filter: opts.Filter})
	if err != nil {
		t.Fatal(err)
	}
	return replay.Events
}

func parseFilter(t testing.TB, pattern string) kv.Filter {
	t.Helper()
	filter, err := kv.ParseFilter(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return filter
}
