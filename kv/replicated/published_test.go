package replicated_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
	"kvbus/kv/replicated"
)

// JetStream's floor rises above records that are no marks, as nothing waits for
// their acknowledgement. Their events are not known to be published.
func TestPublishedIsAMark(t *testing.T) {
	s := startServer(t)
	store := open(t, s, keepsLittle)
	_, stream := objects(t, s)
	cursor, err := stream.CreateConsumer(bounded(t), jetstream.ConsumerConfig{
		Durable:       "events",
		AckPolicy:     jetstream.AckAllPolicy,
		FilterSubject: store.MarkSubject(),
	})
	if err != nil {
		t.Fatal(err)
	}
	published := func(store *replicated.Store) uint64 {
		t.Helper()
		sequence, known, err := store.Published(bounded(t), "events")
		if err != nil || !known {
			t.Fatalf("it is published up to %d, known %v, %v", sequence, known, err)
		}
		return sequence
	}
	if sequence := published(store); sequence != 0 {
		t.Errorf("before anything is written, it is published up to %d", sequence)
	}

	for i, last := 0, ""; store.Marked() < 2 || last == store.MarkSubject(); i++ {
		if _, err := kv.Of(store).Set(bounded(t), "k", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		m, err := stream.GetMsg(bounded(t), store.Applied())
		if err != nil {
			t.Fatal(err)
		}
		last = m.Subject
	}
	consuming, err := cursor.Consume(func(m jetstream.Msg) { _ = m.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	defer consuming.Stop()
	for ctx := bounded(t); ; {
		// What is removed from the log lets JetStream look again.
		if err := stream.Purge(ctx, jetstream.WithPurgeSequence(store.Marked())); err != nil {
			t.Fatal(err)
		}
		info, err := cursor.Info(ctx)
		if err != nil {
			t.Fatalf("the floor does not rise above the last mark: %v", err)
		}
		if info.AckFloor.Stream >= store.Applied() {
			break
		}
	}
	if got, want := published(store), store.Marked(); got != want || got >= store.Applied() {
		t.Errorf("of %d records with the last mark at %d it is published up to %d", store.Applied(), want, got)
	}
	// A worker that does not know that mark asks for it. Its own is not acknowledged.
	consuming.Stop()
	<-consuming.Closed()
	want := store.Marked()
	snapshot(t, store)
	if got := published(open(t, s, keepsLittle)); got != want {
		t.Errorf("a worker that starts from a snapshot takes it that it is published up to %d, not %d", got, want)
	}
	// A log that somebody else has emptied tells nothing of what is published.
	if err := stream.Purge(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if sequence, known, err := store.Published(bounded(t), "events"); known || err != nil {
		t.Errorf("of an empty log it is published up to %d, known %v, %v", sequence, known, err)
	}
}
