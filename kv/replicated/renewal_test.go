package replicated

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv/machine"
)

// The first record that a new connection brings is not taken for the next one where
// the log became another one meanwhile, even if nobody had the time to look.
func TestRecordOfAnotherLog(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	logger := slog.New(slog.DiscardHandler)
	opts := Options{Prefix: "kv"}
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	records := uint64(0)
	appendRecord := func() {
		t.Helper()
		records++
		b := batch{Worker: "another", Number: records, Base: records}
		if _, err := js.Publish(ctx, logSubject(opts.Prefix), b.append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	makeLog := func(size uint64) {
		t.Helper()
		bustest.MakeStream(t, js, jetstream.StreamConfig{
			Name:        streamName(opts.Prefix),
			Subjects:    []string{logSubject(opts.Prefix)},
			AllowDirect: true,
			RePublish:   &jetstream.RePublish{Source: logSubject(opts.Prefix), Destination: liveSubject(opts.Prefix, "log")},
		})
		for records = 0; records < size; {
			appendRecord()
		}
	}

	proxy := bustest.StartProxy(t, s.Addr().String())
	nc, err := bustest.Dial(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	store := &Store{nc: nc, opts: opts, logger: logger, sessions: sessions{}, closed: make(chan struct{}), failed: make(chan error, 1)}
	if store.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	store.background, store.cancel = context.WithCancel(ctx)
	store.appended.init(store)
	store.deadline.init(store)
	store.feed.init(store)
	store.adopt(snapshotHeader{}, machine.New(store.machineOptions()))
	defer store.Close()

	const size = 3
	makeLog(size)
	if err := store.feed.start(ctx, size); err != nil { // and nothing that tells it of new connections
		t.Fatal(err)
	}
	proxy.Redirect("127.0.0.1:1") // nobody is there
	if err := js.DeleteStream(ctx, streamName(opts.Prefix)); err != nil {
		t.Fatal(err)
	}
	makeLog(size)
	proxy.Redirect(s.Addr().String())
	for nc.FlushWithContext(ctx) != nil { // its subscription is there again
		if ctx.Err() != nil {
			t.Fatal("it does not come back")
		}
	}
	appendRecord()
	select {
	case err := <-store.Failed():
		t.Log(err)
	case <-store.AppliedAfter(size):
		t.Error("it takes the next record of another log")
	case <-ctx.Done():
		t.Error("it does not get the next record")
	}
}
