package watchbridge_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/watchbridge"
)

// beating starts a bridge of source whose heartbeats come quickly.
func beating(t *testing.T, s *server.Server, source watchbridge.Source, burst, idle time.Duration) *watchbridge.Bridge {
	t.Helper()
	subjects := defaultSubjects(t)
	bridge := watchbridge.Start(source, watchbridge.Options{
		Dial:           func(context.Context) (*nats.Conn, error) { return bustest.Dial(s.ClientURL(), nats.NoReconnect()) },
		Subjects:       subjects,
		BurstHeartbeat: burst,
		IdleHeartbeat:  idle,
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = bridge.Wait(ctx) // the store may be open still
	})
	return bridge
}

func listen(t *testing.T, s *server.Server, subject string) *nats.Subscription {
	t.Helper()
	nc := bustest.Connect(t, s)
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

func nextBeat(t *testing.T, sub *nats.Subscription) bus.Heartbeat {
	t.Helper()
	m, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	beat, err := bus.DecodeHeartbeat(m)
	if err != nil {
		t.Fatal(err)
	}
	return beat
}

// awaitBeat waits for a heartbeat with a revision.
func awaitBeat(t *testing.T, sub *nats.Subscription, revision uint64) bus.Heartbeat {
	t.Helper()
	for {
		if beat := nextBeat(t, sub); beat.Revision == revision {
			return beat
		} else if beat.Revision > revision {
			t.Fatalf("a heartbeat tells of revision %d, the events end with %d", beat.Revision, revision)
		}
	}
}

// A heartbeat comes after its events, and repeats while nothing happens.
func TestHeartbeatFollowsTheEvents(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := memory.New(memory.Options{})
	t.Cleanup(func() { store.Close() })
	all := listen(t, s, "kv.>")
	beating(t, s, store, 10*time.Millisecond, 50*time.Millisecond)
	const events = 100
	h := kv.Of(store)
	for range events {
		if _, err := h.Set(t.Context(), "key", "value"); err != nil {
			t.Fatal(err)
		}
	}
	var newest uint64
	epoch := ""
	for repeats := 0; repeats < 3; {
		m, err := all.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject != "kv.revision" {
			newest++
			continue
		}
		beat, err := bus.DecodeHeartbeat(m)
		if err != nil {
			t.Fatal(err)
		}
		if beat.Revision > newest {
			t.Fatalf("a heartbeat tells of revision %d, after %d events", beat.Revision, newest)
		}
		if beat.Epoch == "" || epoch != "" && epoch != beat.Epoch {
			t.Fatalf("the epoch is %q, after %q", beat.Epoch, epoch)
		}
		epoch = beat.Epoch
		if beat.Revision == events {
			repeats++
		}
	}
}

func TestAnotherLifeHasAnotherEpoch(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	beats := listen(t, s, "kv.revision")
	epoch := ""
	for range 2 {
		store := memory.New(memory.Options{})
		bridge := beating(t, s, store, time.Millisecond, time.Hour)
		if _, err := kv.Of(store).Set(t.Context(), "key", ""); err != nil {
			t.Fatal(err)
		}
		beat := awaitBeat(t, beats, 1)
		for beat.Epoch == epoch { // the first life may have told it twice
			beat = awaitBeat(t, beats, 1)
		}
		epoch = beat.Epoch
		store.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := bridge.Wait(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}

// Who watches a store in memory hears that it has begun anew before it gets what
// happened since.
func TestNewLifeIsToldBeforeItsEvents(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	for range 20 {
		store := memory.New(memory.Options{})
		t.Cleanup(func() { store.Close() })
		if _, err := kv.Of(store).Set(t.Context(), "key", ""); err != nil {
			t.Fatal(err)
		}
		all := listen(t, s, "kv.>")
		beating(t, s, store, time.Hour, time.Hour)
		m, err := all.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if beat, err := bus.DecodeHeartbeat(m); m.Subject != "kv.revision" || err != nil || beat.Revision != 0 {
			t.Fatalf("the first message is %s %q, %v", m.Subject, m.Data, err)
		}
		if m, err := all.NextMsg(patience); err != nil || m.Subject != "kv.events.key" {
			t.Fatalf("the second message is %v, %v", m, err)
		}
	}
}

// Workers that share a store send one heartbeat between them, also when none
// of them has published anything yet, and when one is gone.
func TestWorkersShareTheHeartbeat(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	beats := listen(t, s, "kv.revision")
	const workers = 3
	const idle = 200 * time.Millisecond
	var stores []*replicated.Store
	for range workers {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		store, err := replicated.Open(ctx, bustest.Connect(t, s), replicated.Options{})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		stores = append(stores, store)
	}
	h := kv.Of(stores[0])
	for range 7 {
		if _, err := h.Set(t.Context(), "key", ""); err != nil {
			t.Fatal(err)
		}
	}
	beating(t, s, stores[0], 10*time.Millisecond, idle)
	if beat := awaitBeat(t, beats, 7); beat.Epoch != "" {
		t.Errorf("a durable store has the epoch %q", beat.Epoch)
	}
	// The others know what is acknowledged, a little after it is published.
	for published, ctx := uint64(0), t.Context(); published < 7; {
		sequence, _, err := stores[0].Published(ctx, watchbridge.Cursor)
		if err == nil {
			published, err = stores[0].RevisionAfter(ctx, sequence)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, store := range stores[1:] {
		beating(t, s, store, 10*time.Millisecond, idle)
	}
	stores[1].Close()
	const count = 10
	begin := time.Now()
	beats = listen(t, s, "kv.revision") // those that wait in the other one are from before
	for range count {
		if beat := nextBeat(t, beats); beat.Revision != 7 {
			t.Fatalf("a heartbeat tells of revision %d; want 7", beat.Revision)
		}
	}
	// Each worker by itself would need a third of the time.
	if took := time.Since(begin); took < count*idle/2 {
		t.Errorf("%d heartbeats in %v, though they are %v apart", count, took, idle)
	}
}
