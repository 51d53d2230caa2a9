package memory_test

import (
	"iter"
	"strings"
	"testing"
	"testing/synctest"

	"kvbus/kv"
	"kvbus/kv/memory"
)

// set writes a value of that many bytes under key.
func set(t *testing.T, store *memory.Store, key string, size int) {
	t.Helper()
	if _, err := store.Do(t.Context(), kv.Command{Op: kv.OpSet, Key: key, Value: strings.Repeat("v", size)}); err != nil {
		t.Fatal(err)
	}
}

func TestDefaultLimits(t *testing.T) {
	store := memory.New(memory.Options{})
	defer store.Close()
	if info, err := store.Info(t.Context()); err != nil || info.Limits != kv.DefaultLimits() {
		t.Errorf("limits %+v, %v; want the defaults", info.Limits, err)
	}
}

func TestReplayBytes(t *testing.T) {
	store := memory.New(memory.Options{ReplayBytes: 5000})
	defer store.Close()
	for range 4 {
		set(t, store, "key", 2000)
	}
	if oldest := store.OldestRevision(); oldest != 3 {
		t.Errorf("the oldest of 4 events of 2,000 bytes that is held is %d, want 3", oldest)
	}
}

// A command that is submitted has its answer when Submit returns, and wakes those
// who watch.
func TestSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(memory.Options{})
		defer store.Close()
		next, stop := iter.Pull2(store.Watch(t.Context(), kv.WatchOptions{}))
		defer stop()
		seen := make(chan kv.Event, 1)
		go func() {
			event, err, _ := next()
			if err != nil {
				t.Error(err)
			}
			seen <- event
		}()
		synctest.Wait() // the watch sleeps
		var answer kv.Result
		store.Submit(t.Context(), kv.Command{Op: kv.OpSet, Key: "key"}, func(result kv.Result, err error) {
			if answer = result; err != nil {
				t.Error(err)
			}
		})
		if answer.Revision != 1 {
			t.Errorf("the answer is %+v, want revision 1", answer)
		}
		if event := <-seen; event.Revision != 1 {
			t.Errorf("the watch has %+v, want revision 1", event)
		}
	})
}
