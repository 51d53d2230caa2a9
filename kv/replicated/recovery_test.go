package replicated_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// rollBack makes the log anew, with its first records only, as the loss of power
// leaves it where the disk did not yet have the others.
func rollBack(t *testing.T, s *server.Server, records uint64) {
	t.Helper()
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	_, stream := objects(t, s)
	var kept []*nats.Msg
	for sequence := range records {
		m, err := stream.GetMsg(bounded(t), sequence+1)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, &nats.Msg{Subject: m.Subject, Data: m.Data})
	}
	config := stream.CachedInfo().Config
	if err := js.DeleteStream(bounded(t), config.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(bounded(t), config); err != nil {
		t.Fatal(err)
	}
	for _, m := range kept {
		if _, err := js.PublishMsg(bounded(t), m); err != nil {
			t.Fatal(err)
		}
	}
}

func closeStore(t *testing.T, store *replicated.Store) {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// A snapshot that is newer than the end of the log has what the log has lost.
func TestLogLostItsEnd(t *testing.T) {
	s := startServer(t)
	store := open(t, s, keepsLittle)
	for i := range 20 {
		if _, err := kv.Of(store).Set(bounded(t), fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	snapshot(t, store)
	sequence := store.Applied()
	closeStore(t, store)
	rollBack(t, s, 5)

	again := open(t, s, keepsLittle)
	if _, err := kv.Of(again).Set(bounded(t), "more", "v"); err != nil {
		t.Fatal(err)
	}
	if again.Applied() <= sequence {
		t.Errorf("the log goes on with record %d after a snapshot at %d", again.Applied(), sequence)
	}
	for _, store := range []*replicated.Store{again, open(t, s, keepsLittle)} {
		info, err := store.Info(bounded(t))
		if err != nil || info.Keys != 21 || info.Revision != 21 {
			t.Errorf("%d keys at revision %d, %v", info.Keys, info.Revision, err)
		}
	}
}

// A log that was made anew is none that goes on after an old snapshot.
func TestLogMadeAnew(t *testing.T) {
	s := startServer(t)
	store := open(t, s, keepsLittle)
	if _, err := kv.Of(store).Set(bounded(t), "k", "v"); err != nil {
		t.Fatal(err)
	}
	snapshot(t, store)
	closeStore(t, store)
	rollBack(t, s, 0)

	_, err := replicated.Open(bounded(t), bustest.Connect(t, s), keepsLittle)
	if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), "the log is new") {
		t.Errorf("a new log with an old snapshot is opened with %v", err)
	}
}

// A cursor that was made anew is before every snapshot, and keeps no store from
// being opened.
func TestCursorMadeAnew(t *testing.T) {
	s := startServer(t)
	store := open(t, s, keepsLittle)
	for i := range 3 {
		for j := range 10 {
			if _, err := kv.Of(store).Set(bounded(t), fmt.Sprint("k", 10*i+j), "v"); err != nil {
				t.Fatal(err)
			}
		}
		snapshot(t, store)
	}
	closeStore(t, store)
	_, stream := objects(t, s)
	if first := stream.CachedInfo().State.FirstSeq; first < 2 {
		t.Fatalf("the log begins at %d", first)
	}
	opts := keepsLittle
	opts.Cursor = "events"
	_, err := stream.CreateConsumer(bounded(t), jetstream.ConsumerConfig{
		Durable: opts.Cursor, AckPolicy: jetstream.AckAllPolicy, FilterSubject: store.MarkSubject(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := open(t, s, opts).Info(bounded(t)); err != nil || info.Keys != 30 {
		t.Errorf("%d keys, %v", info.Keys, err)
	}
}

// A store on a full log can be opened, and with other limits as soon as there is
// room.
func TestOpenOnFullLog(t *testing.T) {
	s := startServer(t)
	opts := replicated.Options{MaxLogBytes: 1 << 20, SnapshotBytes: 1 << 40, Timeout: 300 * time.Millisecond, Cursor: "events"}
	store := open(t, s, opts)
	_, stream := objects(t, s)
	cursor, err := stream.CreateConsumer(bounded(t), jetstream.ConsumerConfig{
		Durable: opts.Cursor, AckPolicy: jetstream.AckAllPolicy, FilterSubject: store.MarkSubject(),
	})
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("v", 10_000)
	for err == nil {
		_, err = kv.Of(store).Set(bounded(t), "k", value)
	}
	for size := len(value); size > 1; size /= 2 { // no room is left for anything
		for err = nil; err == nil; {
			_, err = kv.Of(store).Set(bounded(t), "k", value[:size])
		}
	}
	closeStore(t, store)
	store = open(t, s, opts) // the same limits
	if info, err := store.Describe(); err != nil || info.Keys != 1 {
		t.Errorf("the store that is opened on a full log is %+v, %v", info, err)
	}
	for err = nil; err == nil; {
		_, err = store.Info(bounded(t)) // which writes a small record
	}
	if !errors.Is(err, kv.ErrUnavailable) || !errors.Is(err, replicated.ErrLogFull) {
		t.Errorf("what needs the log fails with %v", err)
	}
	closeStore(t, store)

	opts.Limits = kv.Limits{MaxKeys: 5}
	opened := make(chan error, 1)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	nc := bustest.Connect(t, s)
	go func() {
		store, err := replicated.Open(ctx, nc, opts)
		if err == nil {
			err = store.Close()
		}
		opened <- err
	}()
	consuming, err := cursor.Consume(func(m jetstream.Msg) { _ = m.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	defer consuming.Stop()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
