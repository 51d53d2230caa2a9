package replicated

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
)

// Parts that belong to no snapshot are removed once they are old, and those that
// belong to one are not.
func TestRemainsOfSnapshots(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	store, err := Open(ctx, bustest.Connect(t, s), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := store.js.Publish(ctx, "$O.KVBUS_kv.C.orphan", bytes.Repeat([]byte("x"), 1000)); err != nil {
		t.Fatal(err)
	}
	subjects := func() map[string]uint64 {
		stream, err := store.js.Stream(ctx, "OBJ_KVBUS_kv")
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter("$O.KVBUS_kv.C.>"))
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Subjects
	}
	if err := store.snapshots.removeRemains(ctx, time.Hour); err != nil || subjects()["$O.KVBUS_kv.C.orphan"] != 1 {
		t.Errorf("new parts are removed: %v, %v", subjects(), err)
	}
	if err := store.snapshots.removeRemains(ctx, 0); err != nil || subjects()["$O.KVBUS_kv.C.orphan"] != 0 || len(subjects()) != 1 {
		t.Errorf("after the removal there is %v, %v; want the parts of one snapshot", subjects(), err)
	}
	if stored, err := store.snapshots.list(ctx); err != nil || len(stored) != 1 || store.verify(ctx, stored[0]) != nil {
		t.Errorf("the snapshot is not whole any more: %v, %v", stored, err)
	}
}

// What nats.go leaves of an object that it removes is removed.
func TestRemainsOfRemovedObjects(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	store, err := Open(ctx, bustest.Connect(t, s), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	objects, err := store.js.ObjectStore(ctx, "KVBUS_kv")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"snapshot-00000000000000000001", "other"} {
		if _, err := objects.PutString(ctx, name, "text"); err != nil {
			t.Fatal(err)
		}
		if err := objects.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	if stored, err := store.snapshots.whole(ctx); err != nil || len(stored) != 1 {
		t.Errorf("there are %+v, %v; want one", stored, err)
	}
	if has, err := store.snapshots.look(ctx); err != nil || len(has.removed) != 0 || len(has.parts) != 1 {
		t.Errorf("there is %+v, %v", has, err)
	}
}
