package bus_test

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
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
	"kvbus/service"
)

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
	for _, future := range []uint64{4000, math.MaxUint64} {
		st.follow(t, st.client(t), bus.FollowOptions{Start: kv.After(future)}).ends(kv.ErrCompacted)
	}
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
	fetched := st.follow(t, st.client(t), bus.FollowOptions{Start: kv.After(1), KeysOnly: true})
	for _, w := range []*watcher{w, fetched} {
		if e := w.event(); e.Key != "b" || e.Value != "" || e.Revision != 2 {
			t.Errorf("the event is %+v", e)
		}
	}
}

// A watch reads values of which no two have room in an answer, and ends with the error
// of one that has none by itself.
func TestFollowLargeValues(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	nc := bustest.Connect(t, st.server)
	client := newClient(t, nc, bus.ClientOptions{MaxAnswerBytes: 4000})
	for i := range 3 {
		st.set(t, fmt.Sprint("key", i), strings.Repeat("v", 5000))
	}
	state := st.follow(t, client, bus.FollowOptions{State: true})
	for range 3 {
		if c := state.next(); c.Kind != bus.ChangeState || len(c.Entry.Value) != 5000 {
			t.Errorf("the state has %v of %q", c.Kind, c.Entry.Key)
		}
	}
	st.follow(t, client, bus.FollowOptions{Start: kv.After(0)}).matches(st.history(t, bus.FollowOptions{}, 0))
	if state.noticed(bus.NoticeStale) {
		t.Error("pages that are too large make a watch stale")
	}

	s := bustest.StartServer(t, server.Options{})
	serveScript(t, s, func(_ int, m *nats.Msg, e *bus.Encoder) []*nats.Msg {
		if m.Subject == "kv.keys" {
			return []*nats.Msg{e.Keys(kv.Page{Revision: 1})}
		}
		return []*nats.Msg{e.Error(kv.ErrValueTooLarge)}
	})
	client = newClient(t, bustest.Connect(t, s), bus.ClientOptions{})
	st.follow(t, client, bus.FollowOptions{State: true}).ends(kv.ErrValueTooLarge)
	st.follow(t, client, bus.FollowOptions{Start: kv.After(0)}).ends(kv.ErrValueTooLarge)
}

func TestFollowRefusesWrongOptions(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	client := st.client(t)
	st.follow(t, client, bus.FollowOptions{Prefix: "no key"}).ends(kv.ErrInvalidKey)
	st.follow(t, client, bus.FollowOptions{State: true, Start: kv.After(0)}).ends(kv.ErrInvalidArgument)
	st.follow(t, client, bus.FollowOptions{MaxPending: -1}).ends(kv.ErrInvalidArgument)
}

// A laggingStore answers reads as it was when it was empty, unless they ask for more.
type laggingStore struct{ *memory.Store }

func (s laggingStore) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	if q.Consistency != kv.Linearizable {
		return kv.Page{}, nil
	}
	return s.Store.Scan(ctx, q)
}

func (s laggingStore) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	switch {
	case q.Consistency == kv.Linearizable:
		return s.Store.Replay(ctx, q)
	case q.After > 0:
		return kv.Replay{}, kv.ErrCompacted
	default:
		return kv.Replay{}, nil
	}
}

// A watch begins and goes on where the store is, also where the service answers from
// what a worker has, which may lag behind.
func TestFollowWhereReadsAreEventual(t *testing.T) {
	t.Parallel()
	st := newWatchStage(t, memory.Options{})
	if err := st.service.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var err error
	if st.service, err = service.Start(t.Context(), st.nc, laggingStore{st.store}, service.Options{Subjects: st.subjects, ClaimWait: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	st.set(t, "a", "1")
	st.set(t, "b", "2")
	client := st.client(t)
	now := st.follow(t, client, bus.FollowOptions{})
	state := st.follow(t, client, bus.FollowOptions{State: true})
	after := st.follow(t, client, bus.FollowOptions{Start: kv.After(0)})
	for _, want := range []bus.Change{{Kind: bus.ChangeState, Revision: 1}, {Kind: bus.ChangeState, Revision: 2}, {Kind: bus.ChangeReady, Revision: 2}} {
		if c := state.next(); c.Kind != want.Kind || c.Revision != want.Revision {
			t.Fatalf("the state has %+v, want %v of revision %d", c, want.Kind, want.Revision)
		}
	}
	after.matches(st.history(t, bus.FollowOptions{}, 0))
	st.set(t, "c", "3")
	for _, w := range []*watcher{now, state, after} {
		w.matches(st.history(t, bus.FollowOptions{}, 2))
	}
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
			time.Sleep(300 * time.Microsecond) // a history that grows faster than it is followed has no end
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
		for _, want := range st.history(t, filter, last) {
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
	// At the start each asks for the keys and the store, and again where an answer
	// is late.
	const watches, enough, most = 2, 15, 30
	starts, asked := 0, 0
	for quiet := 0; quiet < enough || starts < watches; {
		m, err := requests.NextMsg(watchPatience)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Subject == "kv.revision":
			quiet++
			continue
		case m.Subject == "kv.events.a":
			continue
		case strings.HasPrefix(m.Subject, "kv.keys"):
			starts++
		}
		quiet = 0
		if asked++; asked > most {
			t.Fatalf("after %d requests a watch asks for %s while nothing changes", most, m.Subject)
		}
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
	t.Run("with the client while nobody iterates", func(t *testing.T) {
		nc := bustest.Connect(t, st.server)
		client := newClient(t, nc, bus.ClientOptions{})
		waiting := client.Follow(context.Background(), bus.FollowOptions{})
		starting := make(chan iter.Seq2[bus.Change, error])
		go func() { starting <- client.Follow(context.Background(), bus.FollowOptions{}) }()
		client.Close()
		all := []iter.Seq2[bus.Change, error]{waiting, <-starting}
		if n := nc.NumSubscriptions(); n > 0 {
			t.Errorf("%d subscriptions are left", n)
		}
		for _, changes := range all {
			wantError(t, "what comes after the end", firstError(changes), kv.ErrClosed)
		}
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
