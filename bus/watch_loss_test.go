package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
)

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
func newMuteStage(t *testing.T, opts memory.Options) *watchStage {
	t.Helper()
	st := newWatchStage(t, memory.Options{})
	st.stop(t)
	w := &testWorker{store: memory.New(opts), stopped: true}
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

// publishAfter publishes all events of the store after a revision.
func (st *watchStage) publishAfter(t *testing.T, revision uint64) {
	t.Helper()
	var e bus.Encoder
	for _, event := range st.history(t, bus.FollowOptions{}, revision) {
		if err := st.nc.PublishMsg(e.Event(st.subjects, event)); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// awaitAudit has other keys change until the watch asks for events.
func (st *watchStage) awaitAudit(t *testing.T) {
	t.Helper()
	asked, err := st.nc.SubscribeSync("kv.replay.>")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = asked.Unsubscribe() }()
	for end := time.Now().Add(watchPatience); time.Now().Before(end); {
		st.beat(t, st.set(t, "other", ""))
		if _, err := asked.NextMsg(20 * time.Millisecond); err == nil {
			return
		}
	}
	t.Fatal("the watch asks for nothing")
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
	st := newMuteStage(t, memory.Options{})
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

// After another worker took over, events come a second time, also those from before
// the watch began. Each is given once at most, and nothing is taken for lost.
func TestRepeatedEvents(t *testing.T) {
	t.Parallel()
	st := newMuteStage(t, memory.Options{})
	client := st.client(t)
	for _, key := range []string{"a", "b", "a"} {
		st.set(t, key, "before")
	}
	one := bus.FollowOptions{Filter: parseFilter(t, "a")}
	all, some := st.follow(t, client, bus.FollowOptions{}), st.follow(t, client, one)
	for _, key := range []string{"a", "b", "a"} {
		st.set(t, key, "after")
	}
	st.publish(t, 4, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6)
	st.set(t, "a", "last")
	st.publish(t, 7)
	all.matches(st.history(t, bus.FollowOptions{}, 3))
	some.matches(st.history(t, one, 3))
	for _, w := range []*watcher{all, some} {
		if w.noticed(bus.NoticeRepaired) {
			t.Error("what came is taken for lost")
		}
	}
}

// The last event is lost, and then nothing happens.
func TestLostTail(t *testing.T) {
	t.Parallel()
	st := newMuteStage(t, memory.Options{})
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
	st := newMuteStage(t, memory.Options{})
	opts := quick(bus.FollowOptions{})
	w := st.follow(t, st.client(t), opts)
	st.set(t, "a", "1")
	w.matches(st.history(t, opts, 0))
}

// A watch of some keys that has given later events can't give a lost one any more.
func TestLossFoundLate(t *testing.T) {
	t.Parallel()
	st := newMuteStage(t, memory.Options{})
	client := st.client(t)
	opts := quick(bus.FollowOptions{Filter: parseFilter(t, "a.*")})
	opts.Silence = time.Hour // asked in between, the service would tell of the loss in time
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

// After an audit that came too late, those that come in time leave nothing unaudited,
// however many events are given.
func TestAuditsAfterOneThatCameTooLate(t *testing.T) {
	t.Parallel()
	const ring, batches, batch = 5000, 9, 1000 // more than a watch remembers
	st := newMuteStage(t, memory.Options{ReplayEvents: ring})
	opts := quick(bus.FollowOptions{Filter: parseFilter(t, "a")})
	opts.Silence = time.Hour
	w := st.follow(t, st.client(t), opts)
	for range ring {
		st.set(t, "other", "")
	}
	first := st.set(t, "a", "")
	st.publish(t, first)
	w.event()
	w.awaitNotice(bus.NoticeUnaudited)
	for range batches {
		var last uint64
		for range batch {
			last = st.set(t, "a", "")
		}
		st.publishAfter(t, last-batch)
		for range batch {
			w.event()
		}
		st.awaitAudit(t)
	}
	st.awaitAudit(t) // the one before is over
	n := 0
	for _, notice := range *w.notices.Load() {
		if notice.Kind == bus.NoticeUnaudited {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d audits came too late, want 1", n)
	}
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

// A store that lasts may be put back to what it was, as from a copy of its disk. An
// audit tells a watch that was further that what it has given is void.
func TestStoreThatWentBack(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	script := serveScript(t, s, func(_ int, m *nats.Msg, e *bus.Encoder) []*nats.Msg {
		switch m.Subject {
		case "kv.keys.a":
			return []*nats.Msg{e.Keys(kv.Page{Revision: 5})}
		case "kv.replay.a":
			return []*nats.Msg{e.ReplayEnd(12, false)}
		default:
			return nil
		}
	})
	subjects, err := bus.NewSubjects("kv")
	if err != nil {
		t.Fatal(err)
	}
	st := &watchStage{server: s, subjects: subjects, testWorker: &testWorker{nc: script.nc}}
	opts := quick(bus.FollowOptions{Filter: parseFilter(t, "a")})
	opts.Silence = time.Hour
	w := st.follow(t, newClient(t, bustest.Connect(t, s), bus.ClientOptions{}), opts)
	event := kv.Event{Kind: kv.EventSet, Key: "a", Revision: 20, Time: time.Now()}
	if err := script.nc.PublishMsg(new(bus.Encoder).Event(subjects, event)); err != nil {
		t.Fatal(err)
	}
	if e := w.event(); e.Revision != 20 {
		t.Fatalf("the event is %+v", e)
	}
	w.ends(kv.ErrCompacted)
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
