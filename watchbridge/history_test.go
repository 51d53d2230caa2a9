package watchbridge_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
	"kvbus/watchbridge"
)

// holdsLittle makes stores whose rings hold a few events, and which take no
// snapshots by themselves.
var holdsLittle = replicated.Options{ReplayEvents: 8, Cursor: watchbridge.Cursor, SnapshotBytes: 1 << 40, LogTail: 1}

// A scene is a log with a worker that holds all events and does not publish, and
// a subscriber to the events.
type scene struct {
	server *server.Server
	proxy  *bustest.Proxy
	all    *replicated.Store
	events *nats.Subscription
}

func setScene(t *testing.T) *scene {
	t.Helper()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	nc := bustest.Connect(t, s)
	events, err := nc.SubscribeSync("kv.events.>")
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	all := openLog(t, s, replicated.Options{Cursor: watchbridge.Cursor, SnapshotBytes: 1 << 40, LogTail: 1})
	return &scene{s, bustest.StartProxy(t, s.Addr().String()), all, events}
}

// write makes some hundred records with all kinds of events and takes a
// snapshot.
func (sc *scene) write(t *testing.T) {
	t.Helper()
	h := kv.Of(sc.all)
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	for i := range 300 {
		key := fmt.Sprint("k", i%40)
		switch i % 7 {
		case 0:
			_, err := h.Delete(t.Context(), key)
			must(err)
		case 1:
			_, err := h.Set(t.Context(), key, "short", kv.WithTTL(time.Duration(i)*time.Microsecond))
			must(err)
		case 2:
			_, err := sc.all.Do(t.Context(), kv.Command{
				Op: kv.OpSet, Key: key, Value: "traced",
				Trace: kv.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			})
			must(err)
		default:
			_, err := h.Set(t.Context(), key, strconv.Itoa(i))
			must(err)
		}
	}
	_, err := h.Clear(t.Context(), "k1")
	must(err)
	must(sc.all.Snapshot(t.Context()))
}

// check receives events until all that happened have come, in order after
// repeated ones are dropped and each as it was, and returns how many repeats there
// were.
func (sc *scene) check(t *testing.T) int {
	t.Helper()
	subjects := defaultSubjects(t)
	info, err := sc.all.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	repeated := 0
	var encoder bus.Encoder
	held := make([]kv.Event, 1)
	for newest := uint64(0); newest < info.Revision; {
		m, err := sc.events.NextMsg(patience)
		if err != nil {
			t.Fatalf("after revision %d of %d: %v", newest, info.Revision, err)
		}
		event, err := subjects.DecodeEvent(m)
		if err != nil {
			t.Fatal(err)
		}
		if event.Revision > newest+1 {
			t.Fatalf("revision %d came after %d", event.Revision, newest)
		}
		if n, err := sc.all.Events(event.Revision-1, held); n != 1 || err != nil {
			t.Fatal(err)
		}
		want := encoder.Event(subjects, held[0])
		if m.Subject != want.Subject || !bytes.Equal(m.Data, want.Data) || !maps.EqualFunc(m.Header, want.Header, slices.Equal) {
			t.Fatalf("the event is %s %v %q, want %s %v %q", m.Subject, m.Header, m.Data, want.Subject, want.Header, want.Data)
		}
		if event.Revision <= newest {
			repeated++
		}
		newest = max(newest, event.Revision)
	}
	return repeated
}

// A publisher that was cut off while far more happened than its ring holds leaves
// no event out, nor does one that comes later.
func TestPublisherBehindItsRing(t *testing.T) {
	for name, late := range map[string]bool{"cut off": false, "late": true} {
		t.Run(name, func(t *testing.T) {
			sc := setScene(t)
			store := openLog(t, sc.server, holdsLittle)
			bridge := publish(t, store, sc.proxy.URL())
			if _, err := kv.Of(store).Set(t.Context(), "first", ""); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { return bridge.Stats().Revision == 1 })
			sc.proxy.Redirect("127.0.0.1:1") // nobody is there
			for range 3 {
				sc.write(t)
			}
			if late {
				store = openLog(t, sc.server, holdsLittle)
				bridge = publish(t, store, sc.server.ClientURL())
			} else {
				sc.proxy.Redirect(sc.server.Addr().String())
			}
			sc.write(t)
			sc.check(t)
			if stats := bridge.Stats(); stats.Lost > 0 {
				t.Errorf("the counts are %+v", stats)
			}
			// It goes on with what the store holds.
			for i := range 100 {
				if _, err := kv.Of(store).Set(t.Context(), "last", strconv.Itoa(i)); err != nil {
					t.Fatal(err)
				}
			}
			revision := store.OldestRevision() + 7
			waitFor(t, func() bool { return bridge.Stats().Revision == revision })
		})
	}
}

// One command may make more events than the ring holds.
func TestClearOfMoreThanTheRing(t *testing.T) {
	sc := setScene(t)
	store := openLog(t, sc.server, holdsLittle)
	bridge := publish(t, store, sc.server.ClientURL())
	const keys = 2000
	answers := make(chan error, keys)
	for i := range keys {
		store.Submit(t.Context(), kv.Command{Op: kv.OpSet, Key: fmt.Sprint("k", i)}, func(_ kv.Result, err error) { answers <- err })
	}
	for range keys {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	if n, err := kv.Of(store).Clear(t.Context(), ""); err != nil || n != keys {
		t.Fatalf("%d of %d keys were removed, %v", n, keys, err)
	}
	sc.check(t)
	if stats := bridge.Stats(); stats.Lost > 0 || stats.Published < 2*keys {
		t.Errorf("the counts are %+v", stats)
	}
}

// What a store that was closed meanwhile has not published, the next one does.
func TestCloseWhileBehindTheRing(t *testing.T) {
	sc := setScene(t)
	first := openLog(t, sc.server, holdsLittle)
	bridge := publish(t, first, sc.proxy.URL())
	sc.write(t)
	sc.proxy.Redirect("127.0.0.1:1") // nobody is there
	for range 2 {
		sc.write(t)
	}
	published := bridge.Stats().Published
	sc.proxy.Redirect(sc.server.Addr().String())
	waitFor(t, func() bool { return bridge.Stats().Published > published })
	first.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	publish(t, openLog(t, sc.server, holdsLittle), sc.server.ClientURL())
	sc.check(t)
}

// A slowLog takes long to begin with its history.
type slowLog struct {
	*replicated.Store
	took time.Duration
}

func (l slowLog) History(ctx context.Context, sequence uint64) iter.Seq2[iter.Seq[kv.Event], error] {
	return func(yield func(iter.Seq[kv.Event], error) bool) {
		select {
		case <-time.After(l.took):
		case <-ctx.Done():
		}
		l.Store.History(ctx, sequence)(yield)
	}
}

// A publisher that is busy with the past for longer than JetStream waits for a
// silent one stays the publisher.
func TestBusyPublisherStays(t *testing.T) {
	silence := longestPause(t)
	sc := setScene(t)
	slow := openLog(t, sc.server, holdsLittle)
	bridge := publish(t, slowLog{slow, 4 * time.Second}, sc.server.ClientURL())
	if _, err := kv.Of(slow).Set(t.Context(), "first", ""); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return bridge.Stats().Revision == 1 })
	other := publish(t, openLog(t, sc.server, replicated.Options{Cursor: watchbridge.Cursor}), sc.server.ClientURL())
	commands := make(chan error, 100)
	for range cap(commands) {
		slow.Submit(t.Context(), kv.Command{Op: kv.OpIncrement, Key: "n", Delta: 1}, func(_ kv.Result, err error) { commands <- err })
	}
	for range cap(commands) {
		if err := <-commands; err != nil {
			t.Fatal(err)
		}
	}
	// Meanwhile JetStream has something for another publisher.
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for bridge.Stats().Published == 1 && other.Stats().Published == 0 {
		<-pace.C
		if _, err := kv.Of(slow).Increment(t.Context(), "n", 1); err != nil {
			t.Fatal(err)
		}
	}
	repeated := sc.check(t)
	if pause := silence(); pause > time.Second {
		t.Skipf("the machine has paused for %v: another worker may well have taken over", pause)
	}
	if repeated > 0 {
		t.Errorf("%d events came twice", repeated)
	}
	if stats := other.Stats(); stats.Published > 0 {
		t.Errorf("another worker took over; its counts are %+v", stats)
	}
}

// Where nothing leads to the events, as when somebody has removed a part of the
// log, they are lost and counted, and those after them are published.
func TestEventsThatCantBeHad(t *testing.T) {
	sc := setScene(t)
	store := openLog(t, sc.server, holdsLittle)
	bridge := publish(t, store, sc.proxy.URL())
	if _, err := kv.Of(store).Set(t.Context(), "first", ""); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return bridge.Stats().Revision == 1 })
	sc.proxy.Redirect("127.0.0.1:1") // nobody is there
	sc.write(t)
	js, err := jetstream.New(bustest.Connect(t, sc.server))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), store.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(100)); err != nil {
		t.Fatal(err)
	}
	sc.proxy.Redirect(sc.server.Addr().String())
	info, err := store.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return bridge.Stats().Revision == info.Revision })
	if stats := bridge.Stats(); stats.Lost == 0 {
		t.Errorf("the counts are %+v", stats)
	}
}

// Events of records that somebody has removed from the log before they were published
// are published as far as the store holds them; the others are lost and counted.
func TestRemovedBeforePublished(t *testing.T) {
	for name, test := range map[string]struct {
		opts replicated.Options
		lost uint64
	}{
		"all are held":  {replicated.Options{Cursor: watchbridge.Cursor}, 0},
		"some are held": {holdsLittle, 12},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
			events := listen(t, s, "kv.events.>")
			proxy := bustest.StartProxy(t, s.Addr().String())
			store := openLog(t, s, test.opts)
			bridge := publish(t, store, proxy.URL())
			set := func() {
				if _, err := kv.Of(store).Set(t.Context(), "k", ""); err != nil {
					t.Fatal(err)
				}
			}
			set()
			waitFor(t, func() bool { return bridge.Stats().Revision == 1 })
			proxy.Redirect("127.0.0.1:1") // nobody is there
			for range 20 {
				set()
			}
			js, err := jetstream.New(bustest.Connect(t, s))
			if err != nil {
				t.Fatal(err)
			}
			stream, err := js.Stream(t.Context(), store.Stream())
			if err == nil {
				err = stream.Purge(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			proxy.Redirect(s.Addr().String())
			waitFor(t, func() bool { return bridge.Stats().Revision == 21 })
			if stats := bridge.Stats(); stats.Lost != test.lost {
				t.Errorf("the counts are %+v", stats)
			}
			for revision := uint64(1); revision <= 21; revision++ {
				if revision == 2 {
					revision += test.lost
				}
				if m, err := events.NextMsg(patience); err != nil || m.Header.Get(bus.HeaderRevision) != strconv.FormatUint(revision, 10) {
					t.Fatalf("instead of revision %d %v comes, %v", revision, m, err)
				}
			}
		})
	}
}
