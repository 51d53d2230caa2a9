package watchbridge_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/watchbridge"
)

// A publisher whose place another worker has taken, while its connection is well,
// publishes no more: else every event would come twice from then on.
func TestReplacedPublisherStops(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	workers := make([]*publisher, 2)
	for i := range workers {
		workers[i] = startPublisher(t, s, s.ClientURL())
	}
	h := kv.Of(workers[0].store)
	set := func() {
		t.Helper()
		if _, err := h.Set(t.Context(), "k", ""); err != nil {
			t.Fatal(err)
		}
	}
	published := func(i int) uint64 { return workers[i].bridge.Stats().Published }
	set()
	waitFor(t, func() bool { return published(0)+published(1) > 0 })
	first := 0
	if published(0) == 0 {
		first = 1
	}
	second := 1 - first
	awaitPulls(t, s, workers[0].store, 2)
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), workers[0].store.Stream())
	if err != nil {
		t.Fatal(err)
	}
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	write := func() {
		for range 20 {
			<-pace.C
			set()
		}
	}
	end := time.Now().Add(patience)
	for published(second) == 0 { // JetStream may elect the same one again
		if time.Now().After(end) {
			t.Fatal("no other one is elected")
		}
		if err := stream.UnpinConsumer(t.Context(), watchbridge.Cursor, "publisher"); err != nil {
			t.Fatal(err)
		}
		write()
	}
	for quiet := 0; quiet < 3; {
		before, others := published(first), published(second)
		write()
		waitFor(t, func() bool { return published(first)+published(second) >= before+others+20 })
		if quiet++; published(first) > before && published(second) > others {
			quiet = 0
		}
		if time.Now().After(end) {
			t.Fatalf("both publish: %d and %d events", published(first), published(second))
		}
	}
}
