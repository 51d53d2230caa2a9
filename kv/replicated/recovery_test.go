package replicated_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	bustest.MakeStream(t, js, config)
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

// A worker that was away while the log lost its end and grew again does not go on
// after what it has.
func TestLogLostItsEndAndGrewAgain(t *testing.T) {
	s := startServer(t)
	first := open(t, s, keepsLittle)
	away, proxy := openThrough(t, s, keepsLittle)
	for i := range 20 {
		if _, err := kv.Of(first).Set(bounded(t), fmt.Sprint("old", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := away.Info(bounded(t)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, first)
	proxy.Redirect("127.0.0.1:1") // nobody is there
	rollBack(t, s, 10)
	second := open(t, s, keepsLittle)
	for second.Applied() <= away.Applied() {
		if _, err := kv.Of(second).Set(bounded(t), "new", "v"); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Redirect(s.Addr().String())
	for ctx := bounded(t); ; {
		select {
		case err := <-away.Failed():
			t.Log(err)
			return
		default:
		}
		if _, err := kv.Of(away).Get(ctx, "new"); err == nil || errors.Is(err, kv.ErrNotFound) || ctx.Err() != nil {
			t.Fatalf("it goes on, and reads with the error %v", err)
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
	ctx := bounded(t)
	// untilFull repeats what needs room until there is none. What is late may have
	// had some.
	untilFull := func(write func() error) {
		for {
			err := write()
			if errors.Is(err, replicated.ErrLogFull) && errors.Is(err, kv.ErrUnavailable) {
				return
			}
			if err != nil && !errors.Is(err, kv.ErrTimeout) || ctx.Err() != nil {
				t.Fatalf("what needs a log that is full ends with %v", err)
			}
		}
	}
	value := strings.Repeat("v", 10_000)
	for size := len(value); size > 1; size /= 2 { // no room is left for anything
		untilFull(func() error { _, err := kv.Of(store).Set(ctx, "k", value[:size]); return err })
	}
	closeStore(t, store)
	store = open(t, s, opts) // the same limits
	if info, err := store.Describe(); err != nil || info.Keys != 1 {
		t.Errorf("the store that is opened on a full log is %+v, %v", info, err)
	}
	untilFull(func() error { _, err := store.Info(ctx); return err }) // which writes a small record
	closeStore(t, store)

	opts.Limits = kv.Limits{MaxKeys: 5}
	opened := make(chan error, 1)
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

// What the disk has lost of a log is never passed over: either the newest snapshot
// has it, or the store does not open.
func TestDamagedLog(t *testing.T) {
	for _, tt := range []struct {
		name     string
		snapshot int // after so many of the keys; 0 for none
		damage   func(t *testing.T, messages string)
		want     string // of the error; empty where all keys are there
	}{
		{"a record in the middle", 0, flipMiddle, "can't be read"},
		{"a record in the middle, after a snapshot", 5, flipMiddle, "can't be read"},
		{"a record in the middle, before a snapshot", 20, flipMiddle, ""},
		{"the end", 0, truncate, "can't be read"},
		{"all of it, and the index", 5, removeAll, "the log is new"},
		{"all of it", 5, removeBlocks, "the log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: dir})
			opts := keepsLittle
			opts.Cursor = "events" // of which none is known to be published
			store := open(t, s, opts)
			js, err := jetstream.New(bustest.Connect(t, s))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateConsumer(bounded(t), "KVBUS_kv", jetstream.ConsumerConfig{
				Durable: opts.Cursor, AckPolicy: jetstream.AckAllPolicy, FilterSubject: store.MarkSubject(),
			}); err != nil {
				t.Fatal(err)
			}
			const keys = 20
			for i := range keys {
				if _, err := kv.Of(store).Set(bounded(t), fmt.Sprint("k", i), strings.Repeat("v", 100)); err != nil {
					t.Fatal(err)
				}
				if i+1 == tt.snapshot {
					snapshot(t, store)
				}
			}
			closeStore(t, store)
			s.Shutdown()
			s.WaitForShutdown()
			tt.damage(t, filepath.Join(dir, "jetstream", "$G", "streams", "KVBUS_kv", "msgs"))
			s = bustest.StartServer(t, server.Options{JetStream: true, StoreDir: dir})
			again, err := replicated.Open(bounded(t), bustest.Connect(t, s), opts)
			if err == nil {
				defer closeStore(t, again)
			}
			switch {
			case tt.want != "" && err == nil:
				info, err := again.Info(bounded(t))
				t.Errorf("it opens, with %d keys at revision %d, %v", info.Keys, info.Revision, err)
			case tt.want != "":
				if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("it opens with %v, want %q", err, tt.want)
				}
			case err != nil:
				t.Error(err)
			default:
				if info, err := again.Info(bounded(t)); err != nil || info.Keys != keys {
					t.Errorf("%d keys at revision %d, %v", info.Keys, info.Revision, err)
				}
			}
		})
	}
}

// block returns the file with the messages of a small stream.
func block(messages string) string { return filepath.Join(messages, "1.blk") }

func rewrite(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func flipMiddle(t *testing.T, messages string) {
	rewrite(t, block(messages), func(data []byte) []byte {
		data[len(data)/2] ^= 1
		return data
	})
}

func truncate(t *testing.T, messages string) {
	rewrite(t, block(messages), func(data []byte) []byte { return data[:len(data)/2] })
}

func removeBlocks(t *testing.T, messages string) {
	if err := os.Remove(block(messages)); err != nil {
		t.Fatal(err)
	}
}

func removeAll(t *testing.T, messages string) {
	if err := os.RemoveAll(messages); err != nil {
		t.Fatal(err)
	}
}
