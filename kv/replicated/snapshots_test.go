package replicated_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// keepsLittle takes no snapshots by itself and keeps no log before the oldest.
var keepsLittle = replicated.Options{SnapshotBytes: 1 << 40, SnapshotAge: time.Hour, LogTail: 1}

// churn makes random changes of all kinds.
func churn(t *testing.T, store kv.Store, r *rand.Rand, n int) {
	t.Helper()
	for range n {
		cmd := kv.Command{Op: kv.OpSet, Key: fmt.Sprintf("k%02d.%d", r.IntN(30), r.IntN(3)), Value: strings.Repeat("v", r.IntN(50))}
		switch r.IntN(8) {
		case 0:
			cmd = kv.Command{Op: kv.OpDelete, Key: cmd.Key}
		case 1:
			cmd = kv.Command{Op: kv.OpIncrement, Key: "n", Delta: r.Int64N(100) - 50}
		case 2:
			cmd = kv.Command{Op: kv.OpTouch, Key: cmd.Key, TTL: time.Hour}
		case 3:
			cmd.TTL = time.Duration(1 + r.IntN(5_000_000)) // up to 5 ms
		case 4:
			cmd = kv.Command{Op: kv.OpClear, Key: fmt.Sprintf("k%02d.", r.IntN(30))}
		}
		if _, err := store.Do(bounded(t), cmd); err != nil {
			t.Fatal(err)
		}
	}
}

func snapshot(t *testing.T, store *replicated.Store) {
	t.Helper()
	if err := store.Snapshot(bounded(t)); err != nil {
		t.Fatal(err)
	}
}

// objects returns the snapshots' object store and the log's stream.
func objects(t *testing.T, s *server.Server) (jetstream.ObjectStore, jetstream.Stream) {
	t.Helper()
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := js.ObjectStore(bounded(t), "KVBUS_kv")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(bounded(t), "KVBUS_kv")
	if err != nil {
		t.Fatal(err)
	}
	return objects, stream
}

// Workers that read the log from its beginning, from a snapshot in the middle,
// or from the last one, have the same state.
func TestSnapshotsLeadToTheSameState(t *testing.T) {
	s := startServer(t)
	r := rand.New(rand.NewPCG(3, 3))
	first := open(t, s, keepsLittle)
	churn(t, first, r, 300)
	snapshot(t, first)
	churn(t, first, r, 300)
	middle := open(t, s, keepsLittle)
	snapshot(t, first)
	churn(t, first, r, 300)
	last := open(t, s, keepsLittle)
	churn(t, last, r, 100)
	want := state(t, first)
	for name, store := range map[string]*replicated.Store{"from the middle": middle, "from the last": last, "later": open(t, s, keepsLittle)} {
		if diff := differ(state(t, store), want); diff != "" {
			t.Errorf("%s the state is another: %s", name, diff)
		}
	}
	_, stream := objects(t, s)
	if info, err := stream.Info(bounded(t)); err != nil || info.State.FirstSeq < 250 {
		t.Errorf("after two snapshots the log begins at %d, %v", info.State.FirstSeq, err)
	}
}

func TestDamagedSnapshots(t *testing.T) {
	s := startServer(t)
	r := rand.New(rand.NewPCG(4, 4))
	first := open(t, s, keepsLittle)
	for range 3 {
		churn(t, first, r, 100)
		snapshot(t, first)
	}
	churn(t, first, r, 50)
	want := state(t, first)

	store, _ := objects(t, s)
	infos, err := store.List(bounded(t))
	if err != nil || len(infos) != 2 {
		t.Fatalf("%d snapshots are kept, %v", len(infos), err)
	}
	names := []string{infos[0].Name, infos[1].Name}
	if names[0] < names[1] {
		names[0], names[1] = names[1], names[0]
	}
	whole, err := store.GetBytes(bounded(t), names[0])
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)/2] ^= 1
	if _, err := store.PutBytes(bounded(t), names[0], whole); err != nil {
		t.Fatal(err)
	}
	if diff := differ(state(t, open(t, s, keepsLittle)), want); diff != "" {
		t.Errorf("with the newest snapshot damaged the state is another: %s", diff)
	}
	if _, err := store.PutBytes(bounded(t), names[1], []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if _, err := replicated.Open(bounded(t), bustest.Connect(t, s), keepsLittle); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("with all snapshots damaged and the log before them gone: %v", err)
	}
}

// A value that is larger than the parts of a snapshot comes back from one.
func TestSnapshotOfALargeValue(t *testing.T) {
	s := startServer(t)
	store := open(t, s, keepsLittle)
	value := strings.Repeat("v", 1<<20)
	if _, err := kv.Of(store).Set(bounded(t), "k", value); err != nil {
		t.Fatal(err)
	}
	for range 4 { // until the log has it no more
		snapshot(t, store)
		if _, err := kv.Of(store).Increment(bounded(t), "n", 1); err != nil {
			t.Fatal(err)
		}
	}
	_, stream := objects(t, s)
	if info, err := stream.Info(bounded(t)); err != nil || info.State.FirstSeq == 1 {
		t.Fatalf("the log begins at %d, %v", info.State.FirstSeq, err)
	}
	closeStore(t, store)
	if entry, err := kv.Of(open(t, s, keepsLittle)).Get(bounded(t), "k"); err != nil || entry.Value != value {
		t.Errorf("it comes back with %d bytes, %v", len(entry.Value), err)
	}
}

// A snapshot is stored where a message is smaller than the parts would be.
func TestSnapshotOnASmallBus(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir(), MaxPayload: 64 << 10})
	store := open(t, s, keepsLittle)
	churn(t, store, rand.New(rand.NewPCG(6, 6)), 10)
	for i := range 20 {
		if _, err := kv.Of(store).Set(bounded(t), fmt.Sprint("large", i), strings.Repeat("v", 50<<10)); err != nil {
			t.Fatal(err)
		}
	}
	snapshot(t, store)
	objs, log := objects(t, s)
	if infos, err := objs.List(bounded(t)); err != nil || len(infos) != 1 || infos[0].Size < 20*50<<10 {
		t.Fatalf("there are %v, %v; want a large one", infos, err)
	}
	if err := log.Purge(bounded(t), jetstream.WithPurgeSequence(store.Applied())); err != nil {
		t.Fatal(err)
	}
	if diff := differ(state(t, open(t, s, keepsLittle)), state(t, store)); diff != "" {
		t.Errorf("from it the state is another: %s", diff)
	}
}

// Events that are not published yet keep the log and the snapshots before them.
func TestUnpublishedEventsAreKept(t *testing.T) {
	s := startServer(t)
	r := rand.New(rand.NewPCG(5, 5))
	opts := keepsLittle
	opts.Cursor = "events"
	first := open(t, s, opts)
	churn(t, first, r, 10)
	_, stream := objects(t, s)
	if _, err := stream.CreateConsumer(bounded(t), jetstream.ConsumerConfig{Durable: "events", AckPolicy: jetstream.AckAllPolicy}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		churn(t, first, r, 100)
		snapshot(t, first)
	}
	if info, err := stream.Info(bounded(t)); err != nil || info.State.FirstSeq != 1 {
		t.Errorf("the log begins at %d though nothing is published, %v", info.State.FirstSeq, err)
	}
	again := open(t, s, opts)
	if _, err := again.RevisionAfter(bounded(t), 1); err != nil || again.OldestRevision() != 1 {
		t.Errorf("the events from the beginning can't be published any more: %d, %v", again.OldestRevision(), err)
	}
}

// So do events of which nobody has said yet that they are published.
func TestEventsBeforeTheFirstPublisherAreKept(t *testing.T) {
	s := startServer(t)
	opts := keepsLittle
	opts.Cursor = "events"
	store := open(t, s, opts)
	for range 3 {
		churn(t, store, rand.New(rand.NewPCG(8, 8)), 100)
		snapshot(t, store)
	}
	_, stream := objects(t, s)
	if info, err := stream.Info(bounded(t)); err != nil || info.State.FirstSeq != 1 {
		t.Errorf("the log begins at %d though nothing is published, %v", info.State.FirstSeq, err)
	}
}

// A worker that was away while the log before it was removed goes on from a
// snapshot.
func TestLaggingWorker(t *testing.T) {
	s := startServer(t)
	r := rand.New(rand.NewPCG(6, 6))
	first := open(t, s, keepsLittle)
	lagging, proxy := openThrough(t, s, keepsLittle)
	churn(t, first, r, 50)
	proxy.Redirect("127.0.0.1:1") // nobody is there
	for range 3 {
		churn(t, first, r, 100)
		snapshot(t, first)
	}
	want := state(t, first)
	proxy.Redirect(s.Addr().String())
	info, err := first.Info(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		_, err := lagging.Get(ctx, "n", kv.ReadOptions{MinRevision: info.Revision})
		if err == nil || errors.Is(err, kv.ErrNotFound) {
			break
		}
		if !errors.Is(err, kv.ErrUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if diff := differ(state(t, lagging), want); diff != "" {
		t.Errorf("the worker that was away has another state: %s", diff)
	}
}

// Commands go on while snapshots are taken on their own.
func TestSnapshotsBySize(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{SnapshotBytes: 10_000, LogTail: 1})
	snapshots, _ := objects(t, s)
	churn(t, store, rand.New(rand.NewPCG(7, 7)), 500)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	updates, err := snapshots.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := updates.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for info := range updates.Updates() {
		if info != nil && strings.HasPrefix(info.Name, "snapshot-") {
			return
		}
	}
	t.Error("no snapshot was taken")
}

// Where somebody removes the snapshots, and the log before them is gone, the next one
// has all that is needed for a start.
func TestSnapshotsRemoved(t *testing.T) {
	s := startServer(t)
	r := rand.New(rand.NewPCG(8, 8))
	store := open(t, s, keepsLittle)
	for range 3 {
		churn(t, store, r, 50)
		snapshot(t, store)
	}
	closeStore(t, store)
	bySize := keepsLittle
	bySize.SnapshotBytes = 10_000
	store = open(t, s, bySize)
	js, err := jetstream.New(bustest.Connect(t, s))
	if err == nil {
		err = js.DeleteStream(bounded(t), "OBJ_KVBUS_kv")
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx := bounded(t)
	for stored := 0; stored == 0; {
		if ctx.Err() != nil {
			t.Fatal("no snapshot was taken")
		}
		churn(t, store, r, 50)
		snapshots, err := js.ObjectStore(bounded(t), "KVBUS_kv")
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		infos, err := snapshots.List(bounded(t))
		if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
			t.Fatal(err)
		}
		stored = len(infos)
	}
	if diff := differ(state(t, open(t, s, keepsLittle)), state(t, store)); diff != "" {
		t.Errorf("who starts then has another state: %s", diff)
	}
}
