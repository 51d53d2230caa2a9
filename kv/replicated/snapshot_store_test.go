package replicated_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// Nothing is removed for the sake of a snapshot that found no room.
func TestSnapshotWithoutRoom(t *testing.T) {
	s := startServer(t)
	opts := keepsLittle
	opts.MaxSnapshotsBytes = 100 << 10
	store := open(t, s, opts)
	failed := false
	for i := range 160 {
		if _, err := kv.Of(store).Set(bounded(t), fmt.Sprint("k", i), strings.Repeat("v", 1000)); err != nil {
			t.Fatal(err)
		}
		if i%40 == 39 { // the state has 40 kB, 80 kB, and so on
			for range 2 {
				failed = store.Snapshot(bounded(t)) != nil || failed
			}
		}
	}
	if !failed {
		t.Error("160 kB are stored in 100 KiB")
	}
	if info, err := open(t, s, opts).Info(bounded(t)); err != nil || info.Keys != 160 {
		t.Errorf("%d keys of 160, %v", info.Keys, err)
	}
}

// A snapshot that is listed and lacks parts does not count as one: others are
// stored, and none is removed for it.
func TestSnapshotThatIsNotWhole(t *testing.T) {
	s := startServer(t)
	r := rand.New(rand.NewPCG(9, 9))
	store := open(t, s, keepsLittle)
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	churn(t, store, r, 50)
	snapshot(t, store)
	objs, _ := objects(t, s)
	infos, err := objs.List(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		churn(t, store, r, 50)
		info := *infos[0]
		info.Name, info.NUID = fmt.Sprintf("snapshot-%020d", store.Applied()), fmt.Sprint("lost", i)
		entry := nats.NewMsg("$O.KVBUS_kv.M." + base64.URLEncoding.EncodeToString([]byte(info.Name)))
		entry.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
		if entry.Data, err = json.Marshal(info); err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(bounded(t), entry); err != nil {
			t.Fatal(err)
		}
		again := open(t, s, keepsLittle)
		if diff := differ(state(t, again), state(t, store)); diff != "" {
			t.Fatalf("the state is another: %s", diff)
		}
		closeStore(t, again)
		churn(t, store, r, 50)
		snapshot(t, store)
	}
	infos, err = objs.List(bounded(t))
	if err != nil || len(infos) != 3 {
		t.Errorf("%d are listed, %v; want two, and one between them that is not whole", len(infos), err)
	}
	whole := 0
	for _, info := range infos {
		if !strings.HasPrefix(info.NUID, "lost") {
			whole++
		}
	}
	if whole != 2 {
		t.Errorf("%d of those that are kept are whole; want 2", whole)
	}
}

// Where parts of a snapshot are taken and no answer comes, they are sent again, stored
// once, and not listed until an answer comes. It is not waited for without end.
func TestSnapshotWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	store := open(t, s, keepsLittle)
	if _, err := kv.Of(store).Set(bounded(t), "k", "v"); err != nil {
		t.Fatal(err)
	}
	objs, _ := objects(t, s)
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(bounded(t), "OBJ_KVBUS_kv")
	if err != nil {
		t.Fatal(err)
	}
	answer := func(does bool) {
		t.Helper()
		config := stream.CachedInfo().Config
		config.NoAck = !does
		if _, err := js.UpdateStream(bounded(t), config); err != nil {
			t.Fatal(err)
		}
	}
	answer(false)
	start := time.Now()
	if err := store.Snapshot(bounded(t)); err == nil || time.Since(start) > patience/2 {
		t.Errorf("it ends after %v with %v", time.Since(start), err)
	}
	if infos, err := objs.List(bounded(t)); len(infos) != 0 {
		t.Errorf("%d are listed, %v", len(infos), err)
	}

	stored := make(chan error, 1)
	go func() { stored <- store.Snapshot(bounded(t)) }()
	for has := uint64(0); has == 0; {
		info, err := stream.Info(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		has = info.State.Msgs
	}
	answer(true)
	if err := <-stored; err != nil {
		t.Error(err)
	}
	infos, err := objs.List(bounded(t))
	if err != nil || len(infos) != 1 {
		t.Fatalf("%d are listed, %v", len(infos), err)
	}
	if _, err := objs.GetBytes(bounded(t), infos[0].Name); err != nil {
		t.Error(err)
	}
	if info, err := stream.Info(bounded(t)); err != nil || info.State.Msgs != 2 {
		t.Errorf("a part and an entry are %d messages, %v", info.State.Msgs, err)
	}
}

// A worker that finds a snapshot without its parts does not wait for them.
func TestSnapshotWithoutParts(t *testing.T) {
	s := startServer(t)
	store := open(t, s, keepsLittle)
	r := rand.New(rand.NewPCG(10, 10))
	for range 3 {
		churn(t, store, r, 20)
		snapshot(t, store)
	}
	closeStore(t, store)
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(bounded(t), "OBJ_KVBUS_kv")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(bounded(t), jetstream.WithPurgeSubject("$O.KVBUS_kv.C.>")); err != nil {
		t.Fatal(err)
	}
	_, err = replicated.Open(bounded(t), bustest.Connect(t, s), keepsLittle)
	if !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it opens with %v", err)
	}
}
