package replicated

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus/bustest"
	"kvbus/kv"
)

// openWithSnapshots opens a store and writes 30 keys, with a snapshot after the first
// ten and one after the next. It returns the two, the newest first.
func openWithSnapshots(t *testing.T, s *server.Server) (*Store, []storedSnapshot) {
	t.Helper()
	store := openAlone(t, s)
	for i := range 30 {
		if _, err := kv.Of(store).Set(t.Context(), fmt.Sprint("k", i), "value"); err != nil {
			t.Fatal(err)
		}
		if i == 9 || i == 19 {
			if err := store.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored, err := store.snapshots.whole(t.Context())
	if err != nil || len(stored) != 2 {
		t.Fatalf("%d snapshots are stored, %v", len(stored), err)
	}
	return store, stored
}

// A full log keeps the snapshots from which the log still leads on, and no others.
func TestUselessSnapshots(t *testing.T) {
	t.Parallel()
	store, stored := openWithSnapshots(t, bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()}))
	older := stored[1].sequence
	for _, tt := range []struct {
		first uint64 // of the log
		want  int
	}{{1, 2}, {older + 1, 2}, {older + 2, 1}} {
		if err := store.purge(t.Context(), tt.first); err != nil {
			t.Fatal(err)
		}
		if err := store.removeUseless(t.Context()); err != nil {
			t.Error(err)
		}
		if left, err := store.snapshots.whole(t.Context()); err != nil || len(left) != tt.want || left[0] != stored[0] {
			t.Errorf("with the log from %d on there are the snapshots %+v, %v; want %d of those of %d and %d",
				tt.first, left, err, tt.want, stored[0].sequence, older)
		}
	}
}

// A full log keeps what it takes to start without the newest snapshot, where that can't
// be read, and all of it where none can.
func TestDamagedSnapshotMakesNoRoom(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	store, stored := openWithSnapshots(t, s)
	objects, err := store.js.ObjectStore(t.Context(), "KVBUS_kv")
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte) {
		if _, err := objects.PutBytes(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	first := func() uint64 {
		log, err := store.logState(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return log.FirstSeq
	}

	newest, err := objects.GetBytes(t.Context(), stored[0].name)
	if err != nil {
		t.Fatal(err)
	}
	put(stored[0].name, newest[:len(newest)-1]) // all entries are there
	if err := store.purgeToNewest(t.Context()); err != nil || first() != stored[1].sequence {
		t.Errorf("with the newest snapshot damaged, which is of record %d, the log begins at %d, %v; want the other one's record %d",
			stored[0].sequence, first(), err, stored[1].sequence)
	}
	if keys, err := kv.Of(openAlone(t, s)).Keys(t.Context(), ""); err != nil || len(keys) != 30 {
		t.Errorf("another worker has %d keys, %v; want 30", len(keys), err)
	}

	if _, err := kv.Of(store).Set(t.Context(), "more", ""); err != nil {
		t.Fatal(err)
	}
	if err := store.Snapshot(t.Context()); err != nil { // now there is a newer one
		t.Fatal(err)
	}
	before := first()
	stored, err = store.snapshots.whole(t.Context())
	if err != nil || len(stored) == 0 {
		t.Fatalf("%d snapshots are stored, %v", len(stored), err)
	}
	for _, snapshot := range stored {
		put(snapshot.name, []byte("no snapshot"))
	}
	if err := store.purgeToNewest(t.Context()); !errors.Is(err, errNoRoom) || first() != before {
		t.Errorf("with all snapshots damaged: %v, and the log begins at %d, before at %d", err, first(), before)
	}
}
