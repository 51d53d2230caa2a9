package watchbridge_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
	"kvbus/watchbridge"
)

// A publisher is a worker that may be elected to publish.
type publisher struct {
	store  *replicated.Store
	bridge *watchbridge.Bridge
}

func startPublisher(t *testing.T, s *server.Server, url string) *publisher {
	t.Helper()
	store := openLog(t, s, replicated.Options{})
	return &publisher{store, publish(t, store, url)}
}

func openLog(t *testing.T, s *server.Server, opts replicated.Options) *replicated.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	store, err := replicated.Open(ctx, bustest.Connect(t, s), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// publish starts a bridge of store to the server at url.
func publish(t *testing.T, store watchbridge.Log, url string) *watchbridge.Bridge {
	t.Helper()
	subjects := defaultSubjects(t)
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial(url, nats.NoReconnect())
		},
		Subjects: subjects,
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = bridge.Wait(ctx) // it may be cut off, which is what the test is about
	})
	return bridge
}

// follow receives events until each revision up to last was there, in order
// after repeated ones are dropped, and returns how many were repeated.
func follow(t *testing.T, events *nats.Subscription, last uint64) int {
	t.Helper()
	subjects := defaultSubjects(t)
	repeated := 0
	for newest := uint64(0); newest < last; {
		m, err := events.NextMsg(patience)
		if err != nil {
			t.Fatalf("after revision %d: %v", newest, err)
		}
		event, err := subjects.DecodeEvent(m)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case event.Revision == newest+1:
			newest++
		case event.Revision <= newest:
			repeated++
		default:
			t.Fatalf("revision %d came after %d", event.Revision, newest)
		}
	}
	return repeated
}

// longestPause measures from now on how long the machine keeps the test from its
// work, until the function that it returns is called: JetStream takes a worker
// that it has not heard of for two seconds to be gone.
func longestPause(t *testing.T) func() time.Duration {
	t.Helper()
	longest := make(chan time.Duration)
	ctx, end := context.WithCancel(t.Context())
	go func() {
		const step = 20 * time.Millisecond
		worst := time.Duration(0)
		for ctx.Err() == nil {
			before := time.Now()
			time.Sleep(step)
			worst = max(worst, time.Since(before)-step)
		}
		select {
		case longest <- worst:
		case <-t.Context().Done():
		}
	}()
	return func() time.Duration { end(); return <-longest }
}

func TestOneOfManyPublishes(t *testing.T) {
	silence := longestPause(t)
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	events := listen(t, s, "kv.events.>")
	var workers []*publisher
	for range 3 {
		workers = append(workers, startPublisher(t, s, s.ClientURL()))
	}
	const writes = 600
	for i := range writes {
		if _, err := kv.Of(workers[i%3].store).Set(t.Context(), fmt.Sprint("k", i%10), ""); err != nil {
			t.Fatal(err)
		}
	}
	if repeated := follow(t, events, writes); repeated > 0 && silence() < time.Second {
		t.Errorf("%d events came twice while nothing failed", repeated)
	}
}

// When the publisher is cut off another one takes over, and none is left out.
func TestPublisherTakesOver(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	events := listen(t, s, "kv.events.>")
	proxy := bustest.StartProxy(t, s.Addr().String())
	first := startPublisher(t, s, proxy.URL())
	write := func(n int) {
		for i := range n {
			if _, err := kv.Of(first.store).Set(t.Context(), fmt.Sprint("k", i%10), ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(100)
	waitFor(t, func() bool { return first.bridge.Stats().Published > 0 })
	second := startPublisher(t, s, s.ClientURL())
	write(100)
	proxy.Redirect("127.0.0.1:1") // nobody is there
	write(100)
	follow(t, events, 300)
	if published := second.bridge.Stats().Published; published == 0 {
		t.Error("the second worker published nothing")
	}
}

// What was not published before a worker ended is published by the next one.
func TestPublishingGoesOnAfterRestart(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	events := listen(t, s, "kv.events.>")
	first := startPublisher(t, s, "nats://127.0.0.1:1") // nobody is there
	for i := range 100 {
		if _, err := kv.Of(first.store).Set(t.Context(), fmt.Sprint("k", i%10), ""); err != nil {
			t.Fatal(err)
		}
	}
	first.store.Close()
	startPublisher(t, s, s.ClientURL())
	follow(t, events, 100)
}

// A store that is closed is published to the end before Wait returns.
func TestElectedPublishesWhatIsDue(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	only := startPublisher(t, s, s.ClientURL())
	for i := range 500 {
		if _, err := kv.Of(only.store).Set(t.Context(), fmt.Sprint("k", i%10), ""); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return only.bridge.Stats().Published > 0 }) // it is elected
	only.store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := only.bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if stats := only.bridge.Stats(); stats.Revision != 500 || stats.Lost != 0 {
		t.Errorf("the counts are %+v", stats)
	}
}
