package replicated_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
	"kvbus/kv/replicated"
)

// A full log refuses what would be lost, and goes on when a snapshot has made
// room, also where that is a single one.
func TestFullLog(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{MaxLogBytes: 1 << 20, SnapshotBytes: 1 << 40, Timeout: 500 * time.Millisecond, Cursor: "events"})
	// Events that are not published hold the log.
	_, stream := objects(t, s)
	cursor, err := stream.CreateConsumer(bounded(t), jetstream.ConsumerConfig{Durable: "events", AckPolicy: jetstream.AckAllPolicy, FilterSubject: store.MarkSubject()})
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("v", 10_000)
	// An answer that is late leaves open what came of it; it is asked again.
	set := func(key string) error {
		for {
			if _, err := kv.Of(store).Set(bounded(t), key, value); !errors.Is(err, kv.ErrTimeout) {
				return err
			}
		}
	}
	written := 0
	for ; written < 200; written++ {
		if err = set(fmt.Sprint("k", written)); err != nil {
			break
		}
	}
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("after %d writes of 10 kB a log of 1 MiB says %v", written, err)
	}
	if entry, err := store.Get(bounded(t), "k0", kv.ReadOptions{Consistency: kv.Eventual}); err != nil || entry.Value != value {
		t.Errorf("an eventual read on a full log: %v", err)
	}

	// Once they are, there is room, soon: the last records are no marks, and one
	// comes after them.
	consuming, err := cursor.Consume(func(m jetstream.Msg) { _ = m.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	defer consuming.Stop()
	for late := time.Now().Add(patience); ; {
		err := set("more")
		if err == nil {
			break
		}
		if !errors.Is(err, kv.ErrUnavailable) || time.Now().After(late) {
			t.Fatal(err)
		}
	}
	again := open(t, s, replicated.Options{Cursor: "events"})
	for i := range written {
		if entry, err := kv.Of(again).Get(bounded(t), fmt.Sprint("k", i)); err != nil || entry.Value != value {
			t.Fatalf("k%d is %.10q, %v", i, entry.Value, err)
		}
	}
}

// A full log has room before a request is given up, where its events are published:
// also when it fills between two marks, by which that would be known.
func TestFullLogHasRoomInTime(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{MaxLogBytes: 1 << 20, SnapshotBytes: 1 << 40, Cursor: "events"})
	_, stream := objects(t, s)
	cursor, err := stream.CreateConsumer(bounded(t), jetstream.ConsumerConfig{Durable: "events", AckPolicy: jetstream.AckAllPolicy, FilterSubject: store.MarkSubject()})
	if err != nil {
		t.Fatal(err)
	}
	consuming, err := cursor.Consume(func(m jetstream.Msg) { _ = m.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	defer consuming.Stop()
	for i := range 300 { // 3 MB of log
		if _, err := kv.Of(store).Set(bounded(t), fmt.Sprint("k", i%20), strings.Repeat("v", 10_000)); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
}

// The snapshots that make room in a full log, again and again, do not pile up, nor
// keep the next one from being stored.
func TestFullLogKeepsFewSnapshots(t *testing.T) {
	for name, most := range map[string]int64{"without a bound": 0, "with room for three": 700 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			store := open(t, s, replicated.Options{
				MaxLogBytes: 1 << 20, MaxSnapshotsBytes: most, SnapshotBytes: 1 << 40, Timeout: 500 * time.Millisecond,
			})
			ctx, value := bounded(t), strings.Repeat("v", 10_000)
			for i := range 600 { // 6 MB of log, for a state of 200 kB
				for {
					_, err := kv.Of(store).Set(ctx, fmt.Sprint("k", i%20), value)
					if err == nil {
						break
					}
					if !errors.Is(err, kv.ErrTimeout) && !errors.Is(err, kv.ErrUnavailable) || ctx.Err() != nil {
						t.Fatalf("write %d: %v", i, err)
					}
				}
			}
			snapshots, _ := objects(t, s)
			if infos, err := snapshots.List(ctx); err != nil || len(infos) > 3 {
				t.Errorf("%d snapshots are stored, %v", len(infos), err)
			}
		})
	}
}
