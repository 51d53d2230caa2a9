package replicated

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
)

// storeInParts opens a store, through a proxy, and stores a snapshot of two parts.
func storeInParts(t *testing.T, ctx context.Context) (*Store, *bustest.Proxy) {
	t.Helper()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	proxy := bustest.StartProxy(t, s.Addr().String())
	nc, err := bustest.Dial(proxy.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	store, err := Open(ctx, nc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	for i := range 4 {
		if _, err := kv.Of(store).Set(ctx, fmt.Sprint("k", i), strings.Repeat("v", partSize/3)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	return store, proxy
}

// only returns the only snapshot of a store.
func only(t *testing.T, ctx context.Context, store *Store) storedSnapshot {
	t.Helper()
	stored, err := store.snapshots.list(ctx)
	if err != nil || len(stored) != 1 || stored[0].parts != 2 || !stored[0].whole() {
		t.Fatalf("there are %+v, %v; want a whole one in two parts", stored, err)
	}
	return stored[0]
}

// Who reads a snapshot stops when told, also while nobody answers.
func TestStopWhileReadingASnapshot(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	store, proxy := storeInParts(t, ctx)
	reading, stop := context.WithCancel(ctx)
	object, err := store.snapshots.open(reading, only(t, ctx, store))
	if err == nil {
		_, err = object.Read(make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy.Redirect("127.0.0.1:1") // nobody is there
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, object)
		ended <- err
	}()
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
}

// Parts that are removed while a snapshot is read are not waited for: there may be a
// newer one.
func TestSnapshotRemovedWhileReading(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	store, _ := storeInParts(t, ctx)
	snapshot := only(t, ctx, store)
	object, err := store.snapshots.open(ctx, snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.snapshots.purge(ctx, store.snapshots.partsSubject(snapshot.id)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, object); !transient(err) || ctx.Err() != nil {
		t.Errorf("it ends with %v", err)
	}
}

// A store that runs does not go back to an older snapshot, nor to an empty state.
func TestNoWayBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	store, err := Open(ctx, bustest.Connect(t, s), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, stored := range []bool{false, true} {
		if stored {
			if err := store.Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := kv.Of(store).Set(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
		before, err := store.Describe()
		if err != nil {
			t.Fatal(err)
		}
		store.feed.mu.Lock()
		err = errors.Join(store.load(ctx), store.loadNewest(ctx))
		store.feed.mu.Unlock()
		if after, infoErr := store.Describe(); err != nil || infoErr != nil || after.Revision < before.Revision || after.LogPosition < before.LogPosition {
			t.Errorf("with a snapshot: %v: from revision %d it goes to %d: %v, %v", stored, before.Revision, after.Revision, err, infoErr)
		}
	}
}

// A part is sent again for a while where the other servers of the stream are away, also
// after the one that is there has said that it has it.
func TestPartOnASlowCluster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	servers := bustest.StartCluster(t, server.Options{})
	js, err := jetstream.New(bustest.Connect(t, servers[0]))
	if err != nil {
		t.Fatal(err)
	}
	var stream jetstream.Stream
	if err := patiently(ctx, slog.New(slog.DiscardHandler), "make the stream", func() (err error) {
		stream, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "OBJ_x", Subjects: []string{"$O.x.>"}, Replicas: len(servers)})
		if err == nil && stream.CachedInfo().Cluster.Leader == "" {
			err = errNotYet
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	leader := servers[slices.IndexFunc(servers, func(s *server.Server) bool { return s.Name() == stream.CachedInfo().Cluster.Leader })]
	if js, err = jetstream.New(bustest.Connect(t, leader)); err != nil {
		t.Fatal(err)
	}
	store := &snapshotStore{js: js, stream: stream, bucket: "x"}
	if err := store.publish(ctx, &nats.Msg{Subject: "$O.x.C.a", Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if s != leader {
			s.Shutdown()
		}
	}
	patience, cancel := context.WithTimeout(ctx, 2*apiTimeout)
	defer cancel()
	if err := store.publish(patience, &nats.Msg{Subject: "$O.x.C.a", Data: []byte("2")}); patience.Err() == nil {
		t.Errorf("it is given up: %v", err)
	}
}

// The entry of a snapshot is stored, the answer does not come, and it is sent again.
func TestEntryThatIsSentAgain(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	config := jetstream.StreamConfig{Name: "OBJ_x", Subjects: []string{"$O.x.>"}, AllowRollup: true, NoAck: true}
	stream, err := js.CreateStream(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	store := &snapshotStore{js: js, stream: stream, bucket: "x"}
	done := make(chan error, 1)
	go func() {
		done <- store.enter(ctx, &jetstream.ObjectInfo{ObjectMeta: jetstream.ObjectMeta{Name: "snapshot-1"}})
	}()
	for {
		info, err := stream.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == 1 {
			break
		}
	}
	config.NoAck = false
	if _, err := js.UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("it is stored, and fails with %v", err)
	}
}
