package bus_test

import (
	"context"
	"errors"
	"fmt"
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
	"kvbus/service"
	"kvbus/watchbridge"
)

const watchPatience = 10 * time.Second

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
			return nats.Connect(st.workerProxy.URL(), nats.NoReconnect())
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
	if w.nc, err = nats.Connect(st.workerProxy.URL(), reconnecting()...); err != nil {
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
func (st *watchStage) client(t testing.TB, opts ...nats.Option) *bus.Client {
	t.Helper()
	nc, err := nats.Connect(st.proxy.URL(), append(reconnecting(), opts...)...)
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

func TestFollowFromNow(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	st.set(t, "before", "")
	w := st.follow(t, st.client(t), bus.FollowOptions{})
	st.set(t, "a", "1")
	st.set(t, "b", "2")
	w.matches(st.history(t, bus.FollowOptions{}, 1))
}

func TestFollowAfterARevision(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	for i := range 3000 {
		st.set(t, "key", strconv.Itoa(i))
	}
	w := st.follow(t, st.client(t), bus.FollowOptions{Start: kv.After(17), PageSize: 100})
	st.set(t, "key", "last")
	w.matches(st.history(t, bus.FollowOptions{}, 17))
	st.follow(t, st.client(t), bus.FollowOptions{Start: kv.After(4000)}).ends(kv.ErrCompacted)
}

func TestFollowKeysOnly(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	st.set(t, "a", "large")
	w := st.follow(t, st.client(t), bus.FollowOptions{State: true, KeysOnly: true})
	if c := w.next(); c.Kind != bus.ChangeState || c.Entry.Key != "a" || c.Entry.Value != "" || c.Entry.Revision != 1 {
		t.Errorf("the state has %+v", c)
	}
	if c := w.next(); c.Kind != bus.ChangeReady || c.Revision != 1 {
		t.Errorf("after the state comes %+v", c)
	}
	st.set(t, "b", "large")
	if e := w.event(); e.Key != "b" || e.Value != "" || e.Revision != 2 {
		t.Errorf("the event is %+v", e)
	}
}

func TestFollowRefusesWrongOptions(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	client := st.client(t)
	st.follow(t, client, bus.FollowOptions{Prefix: "no key"}).ends(kv.ErrInvalidKey)
	st.follow(t, client, bus.FollowOptions{State: true, Start: kv.After(0)}).ends(kv.ErrInvalidArgument)
	st.follow(t, client, bus.FollowOptions{MaxPending: -1}).ends(kv.ErrInvalidArgument)
}

// A state that takes many pages while writers go on is that of one revision when
// it is said to be complete, and the events go on from there.
func TestStateWhileOthersWrite(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{ReplayEvents: 1 << 22, ReplayBytes: 4 << 30})
	key := func(i int) string { return fmt.Sprintf("k.%03d", i%400) }
	for i := range 400 {
		st.set(t, key(i), "first")
	}
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_, err := st.Set(context.Background(), key(i*7), strconv.Itoa(i))
			if err == nil && i%3 == 0 {
				_, err = st.Delete(context.Background(), key(i*11))
			}
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(50 * time.Microsecond) // as a busy store, not as a flood
		}
	})
	defer writing.Wait()
	defer close(stop)
	client := st.client(t)
	for round := range 5 {
		filter := bus.FollowOptions{State: true, PageSize: 10}
		if round%2 == 1 {
			filter.Prefix = "k.1"
		}
		w := st.follow(t, client, filter)
		state, last := map[string]kv.Entry{}, uint64(0)
		for ready := false; !ready; {
			c := w.next()
			switch c.Kind {
			case bus.ChangeState:
				state[c.Entry.Key] = c.Entry
			case bus.ChangeEvent:
				if c.Revision <= last {
					t.Fatalf("revision %d after %d", c.Revision, last)
				}
				last = c.Revision
				applyEvent(state, c.Event)
			case bus.ChangeReady:
				ready = true
				want := map[string]kv.Entry{}
				for _, event := range st.history(t, filter, 0) {
					if event.Revision <= c.Revision {
						applyEvent(want, event)
					}
				}
				if len(state) != len(want) {
					t.Fatalf("%d entries at revision %d, want %d", len(state), c.Revision, len(want))
				}
				for key, entry := range want {
					if state[key] != entry {
						t.Fatalf("at revision %d: %+v, want %+v", c.Revision, state[key], entry)
					}
				}
				last = c.Revision
			}
		}
		for _, want := range st.history(t, filter, last)[:] {
			if got := w.event(); got != want {
				t.Fatalf("after the state: %+v, want %+v", got, want)
			}
		}
	}
}

func applyEvent(state map[string]kv.Entry, event kv.Event) {
	switch event.Kind {
	case kv.EventSet:
		state[event.Key] = kv.Entry{Key: event.Key, Value: event.Value, Revision: event.Revision, ExpiresAt: event.ExpiresAt}
	case kv.EventTouch:
		entry := state[event.Key]
		entry.Revision, entry.ExpiresAt = event.Revision, event.ExpiresAt
		state[event.Key] = entry
	default:
		delete(state, event.Key)
	}
}

// Connections are cut again and again while events come.
func TestFollowOverLostConnections(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	client := st.client(t)
	some := bus.FollowOptions{Filter: parseFilter(t, "k.1")}
	all := st.follow(t, client, bus.FollowOptions{})
	one := st.follow(t, client, some)
	for i := range 4000 {
		st.set(t, fmt.Sprint("k.", i%3), strconv.Itoa(i))
		if i%400 == 200 {
			st.proxy.Cut()
		}
	}
	all.matches(st.history(t, bus.FollowOptions{}, 0))
	one.matches(st.history(t, some, 0))
	all.awaitNotice(bus.NoticeRepaired)
}

// newMuteStage has a worker without a bridge: the test publishes.
func newMuteStage(t *testing.T) *watchStage {
	t.Helper()
	st := newWatchStage(t, memory.Options{})
	st.stop(t)
	w := &testWorker{store: memory.New(memory.Options{}), stopped: true}
	w.Handle = kv.Of(w.store)
	w.serve(t, st)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), watchPatience)
		defer cancel()
		if err := w.service.Stop(ctx); err != nil {
			t.Error(err)
		}
		w.store.Close()
	})
	st.testWorker = w
	return st
}

// publish publishes events of the store as a bridge does.
func (st *watchStage) publish(t *testing.T, revisions ...uint64) {
	t.Helper()
	for _, revision := range revisions {
		events := st.history(t, bus.FollowOptions{}, revision-1)
		if err := st.nc.PublishMsg(new(bus.Encoder).Event(st.subjects, events[0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func (st *watchStage) beat(t *testing.T, revision uint64) {
	t.Helper()
	if err := st.nc.PublishMsg(st.subjects.EncodeHeartbeat(bus.Heartbeat{Revision: revision})); err != nil {
		t.Fatal(err)
	}
	if err := st.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestEventLeftOut(t *testing.T) {
	t.Parallel()
	st := newMuteStage(t)
	client := st.client(t)
	one := bus.FollowOptions{Filter: parseFilter(t, "a")}
	all, some := st.follow(t, client, bus.FollowOptions{}), st.follow(t, client, one)
	for i := range 6 {
		st.set(t, []string{"a", "b"}[i%2], strconv.Itoa(i))
	}
	st.publish(t, 1, 2 /* 3 is lost */, 4, 5, 6)
	all.matches(st.history(t, bus.FollowOptions{}, 0))
	some.matches(st.history(t, one, 0))
	all.awaitNotice(bus.NoticeRepaired)
	some.awaitNotice(bus.NoticeRepaired)
}

// The last event is lost, and then nothing happens.
func TestLostTail(t *testing.T) {
	t.Parallel()
	st := newMuteStage(t)
	client := st.client(t)
	opts := quick(bus.FollowOptions{})
	opts.Silence = time.Hour
	one := opts
	one.Prefix = "a"
	all, some := st.follow(t, client, opts), st.follow(t, client, one)
	st.set(t, "a", "1")
	st.set(t, "a", "2")
	st.publish(t, 1)
	st.beat(t, 2)
	all.matches(st.history(t, opts, 0))
	some.matches(st.history(t, one, 0))
}

// No heartbeat comes at all: the watch asks by itself.
func TestSilence(t *testing.T) {
	t.Parallel()
	st := newMuteStage(t)
	opts := quick(bus.FollowOptions{})
	w := st.follow(t, st.client(t), opts)
	st.set(t, "a", "1")
	w.matches(st.history(t, opts, 0))
}

// A watch of some keys that has given later events can't give a lost one any more.
func TestLossFoundLate(t *testing.T) {
	t.Parallel()
	st := newMuteStage(t)
	client := st.client(t)
	opts := quick(bus.FollowOptions{Filter: parseFilter(t, "a.*")})
	again := opts
	again.Restart = true
	lost, restarted := st.follow(t, client, opts), st.follow(t, client, again)
	st.set(t, "a.1", "1")
	st.set(t, "a.2", "2")
	st.publish(t, 2)
	for _, w := range []*watcher{lost, restarted} {
		if e := w.event(); e.Revision != 2 {
			t.Fatalf("the first event is %+v", e)
		}
	}
	lost.ends(kv.ErrCompacted)
	restarted.restartsWith("a.1", "a.2")
}

// restartsWith expects a new start and the state.
func (w *watcher) restartsWith(keys ...string) {
	w.t.Helper()
	c := w.next()
	for c.Kind == bus.ChangeEvent {
		c = w.next()
	}
	if c.Kind != bus.ChangeRestart || !errors.Is(c.Cause, kv.ErrCompacted) {
		w.t.Fatalf("%+v came, want a new start", c)
	}
	var got []string
	for c = w.next(); c.Kind == bus.ChangeState; c = w.next() {
		got = append(got, c.Entry.Key)
	}
	if c.Kind != bus.ChangeReady || !slices.Equal(got, keys) {
		w.t.Fatalf("the state has %q and then %+v, want %q", got, c, keys)
	}
}

// While nothing changes a watch asks for nothing.
func TestIdleWatchAsksNothing(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	st.set(t, "a", "1")
	spy := bustest.Connect(t, st.server)
	requests, err := spy.SubscribeSync("kv.>")
	if err != nil {
		t.Fatal(err)
	}
	// One of before the event would tell of a publisher that lags.
	for beat := ""; beat != "1"; {
		m, err := requests.NextMsg(watchPatience)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject == st.subjects.HeartbeatSubject() {
			beat = string(m.Data)
		}
	}
	opts := quick(bus.FollowOptions{Filter: parseFilter(t, "*")})
	opts.Silence = time.Minute // a machine that is slow is none
	all := quick(bus.FollowOptions{})
	all.Silence = opts.Silence
	st.follow(t, st.client(t), opts)
	st.follow(t, st.client(t), all)
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	const watches = 2
	beats, starts, infos := 0, 0, 0
	for beats < 15 || starts < watches {
		m, err := requests.NextMsg(watchPatience)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Subject == "kv.revision":
			beats++
		case m.Subject == "kv.events.a":
		case strings.HasPrefix(m.Subject, "kv.keys") && starts < watches:
			starts++
			beats = 0
		case m.Subject == "kv.info" && infos < watches: // at the first heartbeat
			infos++
		default:
			t.Fatalf("a watch asks for %s while nothing changes", m.Subject)
		}
	}
}

func TestCompactedWhileAway(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{ReplayEvents: 16})
	client := st.client(t)
	w := st.follow(t, client, bus.FollowOptions{})
	again := st.follow(t, client, bus.FollowOptions{Restart: true})
	st.set(t, "a", "first")
	w.event()
	again.event()
	st.proxy.Redirect("127.0.0.1:1") // nobody is there
	for i := range 100 {
		st.set(t, "a", strconv.Itoa(i))
	}
	st.proxy.Redirect(st.server.Addr().String())
	w.ends(kv.ErrCompacted)
	again.restartsWith("a")
	st.set(t, "b", "goes on")
	if e := again.event(); e.Key != "b" {
		t.Errorf("after the new start comes %+v", e)
	}
}

// A consumer that is slow gets everything, out of bounded memory.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	for name, opts := range map[string]bus.FollowOptions{
		"by number": {MaxPending: 10},
		"by size":   {MaxPendingBytes: 100},
		"filtered":  {MaxPending: 10, Filter: parseFilter(t, "a.*")},
	} {
		t.Run(name, func(t *testing.T) {
			after := uint64(0)
			if info, err := st.store.Info(t.Context()); err != nil {
				t.Fatal(err)
			} else {
				after = info.Revision
			}
			w := st.follow(t, st.client(t), opts)
			w.hold.Lock()
			for i := range 2000 {
				st.set(t, fmt.Sprint("a.", i%5), strconv.Itoa(i))
			}
			w.hold.Unlock()
			w.matches(st.history(t, opts, after))
			st.set(t, "a.1", "live")
			w.event()
		})
	}
}

// A store in memory that is restarted begins again at revision 1, whether it is
// behind the watch or beyond it when that looks.
func TestNewLifeOfTheStore(t *testing.T) {
	t.Parallel()
	for _, writes := range []int{0, 3, 10, 40} {
		t.Run(fmt.Sprint(writes, " events"), func(t *testing.T) {
			t.Parallel()
			st := newWatchStage(t, memory.Options{})
			client := st.client(t)
			var ending, restarting []*watcher
			for _, pattern := range []string{">", "*", "k.*"} {
				opts := quick(bus.FollowOptions{Filter: parseFilter(t, pattern)})
				ending = append(ending, st.follow(t, client, opts))
				opts.Restart = true
				restarting = append(restarting, st.follow(t, client, opts))
			}
			for i := range 10 {
				st.set(t, []string{"old", "k.old"}[i%2], strconv.Itoa(i))
			}
			for i, w := range append(slices.Clone(ending), restarting...) {
				for range []int{10, 5, 5}[i%3] {
					w.event()
				}
			}
			st.stop(t)
			time.Sleep(10 * time.Millisecond) // a worker can't be there again at once
			st.testWorker = st.startWorker(t, memory.Options{}, 20*time.Millisecond)
			for i := range writes {
				st.set(t, []string{"new", "k.new"}[i%2], strconv.Itoa(i))
			}
			for _, w := range ending {
				w.ends(kv.ErrCompacted)
			}
			for i, w := range restarting {
				w.awaitRestart()
				st.set(t, fmt.Sprint("k.after", i), "")
				st.set(t, fmt.Sprint("after", i), "")
				last := map[string]bool{}
				for !last["k.after"+strconv.Itoa(i)] && !last["after"+strconv.Itoa(i)] {
					c := w.next()
					if c.Kind == bus.ChangeEvent {
						last[c.Event.Key] = true
					}
				}
			}
		})
	}
}

func (w *watcher) awaitRestart() {
	w.t.Helper()
	for w.next().Kind != bus.ChangeRestart {
	}
	for w.next().Kind != bus.ChangeReady {
	}
}

// The worker is away for a while: the watch says so, and goes on.
func TestWorkerAway(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	w := st.follow(t, st.client(t), quick(bus.FollowOptions{}))
	st.set(t, "a", "1")
	w.event()
	st.workerProxy.Redirect("127.0.0.1:1") // nobody is there
	w.awaitNotice(bus.NoticeStale)
	st.set(t, "a", "2")
	st.workerProxy.Redirect(st.server.Addr().String())
	if e := w.event(); e.Revision != 2 {
		t.Errorf("then comes %+v", e)
	}
	w.awaitNotice(bus.NoticeLive)
}

func TestFollowEnds(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	t.Run("with the client", func(t *testing.T) {
		client := st.client(t)
		w := st.follow(t, client, bus.FollowOptions{})
		client.Close()
		w.ends(kv.ErrClosed)
		st.follow(t, client, bus.FollowOptions{}).ends(kv.ErrClosed)
	})
	t.Run("with the connection", func(t *testing.T) {
		nc := bustest.Connect(t, st.server)
		client, err := bus.NewClient(nc, bus.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w := st.follow(t, client, bus.FollowOptions{})
		nc.Close()
		w.ends(kv.ErrClosed)
	})
	t.Run("and leaves nothing behind", func(t *testing.T) {
		nc := bustest.Connect(t, st.server)
		client, err := bus.NewClient(nc, bus.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		before := nc.NumSubscriptions()
		ctx, cancel := context.WithCancel(t.Context())
		_ = client.Follow(ctx, bus.FollowOptions{}) // never iterated
		for range 3 {
			seq := client.Follow(ctx, bus.FollowOptions{})
			st.set(t, "a", "")
			for _, err := range seq {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
		}
		cancel()
		// The connection keeps the inbox of its requests.
		for end := time.Now().Add(watchPatience); nc.NumSubscriptions() > before+1; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d subscriptions are left", nc.NumSubscriptions())
			}
		}
	})
}
