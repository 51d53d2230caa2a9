package machine

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"kvbus/kv"
)

// A read of a key is answered while a writer holds the lock.
func TestGetWaitsForNoWriter(t *testing.T) {
	s := Share(New(Options{}))
	if _, err := s.Update(func(m *Machine) { apply(t, m, kv.Command{Op: kv.OpSet, Key: "k", Value: "v"}) }); err != nil {
		t.Fatal(err)
	}
	_, err := s.Update(func(*Machine) {
		read := make(chan kv.Entry)
		go func() {
			var entry kv.Entry
			if err := s.Get("k", time.Now, &entry); err != nil {
				t.Error(err)
			}
			read <- entry
		}()
		if entry := <-read; entry.Value != "v" || s.Revision() != 1 {
			t.Errorf("beside a writer the entry is %+v at revision %d", entry, s.Revision())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A reader sees a key with each of its values in order, never an older one
// again and never none, while the writer goes on.
func TestReadersSeeValuesInOrder(t *testing.T) {
	s := Share(New(Options{ReplayEvents: 10}))
	const writes = 20_000
	write := func(i int) {
		_, err := s.Update(func(m *Machine) {
			apply(t, m, kv.Command{Op: kv.OpSet, Key: "k", Value: fmt.Sprint(i)})
			// Others come and go, so that the table changes around it.
			apply(t, m, kv.Command{Op: kv.OpSet, Key: fmt.Sprint("passes", i)})
			if i >= 100 {
				apply(t, m, kv.Command{Op: kv.OpDelete, Key: fmt.Sprint("passes", i-100)})
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
	write(0)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := uint64(0); ; {
				var entry kv.Entry
				err := s.Get("k", time.Now, &entry)
				if err != nil || entry.Revision < last {
					t.Errorf("after revision %d: %+v, %v", last, entry, err)
					return
				}
				if last = entry.Revision; entry.Value == fmt.Sprint(writes-1) {
					return
				}
			}
		})
	}
	for i := 1; i < writes; i++ {
		write(i)
	}
	readers.Wait()
}

// An entry is gone at its deadline, not a nanosecond later.
func TestGetAtTheDeadline(t *testing.T) {
	s := Share(New(Options{}))
	if _, err := s.Update(func(m *Machine) { apply(t, m, kv.Command{Op: kv.OpSet, Key: "k", TTL: 10}) }); err != nil {
		t.Fatal(err)
	}
	for now, want := range map[int64]error{10: nil, 11: kv.ErrNotFound} {
		var entry kv.Entry
		if err := s.Get("k", func() time.Time { return time.Unix(0, now) }, &entry); !errors.Is(err, want) {
			t.Errorf("at %d, with the deadline 11: %v, want %v", now, err, want)
		}
	}
}

// Who watches may end at the news that events were lost.
func TestWatchEndsAtALag(t *testing.T) {
	s := Share(New(Options{ReplayEvents: 1}))
	watch := s.Watch(t.Context(), kv.WatchOptions{})
	_, err := s.Update(func(m *Machine) {
		for range 3 {
			apply(t, m, kv.Command{Op: kv.OpSet, Key: "k"})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for event, err := range watch {
		if lag, ok := errors.AsType[*kv.LagError](err); !ok || lag.First != 1 || lag.Last != 2 {
			t.Errorf("the watch begins with %+v, %v; want a lag of the first two", event, err)
		}
		break
	}
}

func TestClosedMachineIsRead(t *testing.T) {
	s := Share(New(Options{}))
	if _, err := s.Update(func(m *Machine) { apply(t, m, kv.Command{Op: kv.OpSet, Key: "k"}) }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := s.Update(func(*Machine) { t.Error("a closed machine was updated") }); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("an update after Close: %v", err)
	}
	buf := make([]kv.Event, 2)
	if n, err := s.Next(t.Context(), 0, buf); n != 1 || err != nil {
		t.Errorf("what happened before Close: %d events, %v", n, err)
	}
	if _, err := s.Next(t.Context(), 1, buf); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("after that: %v", err)
	}
}

// A read sees all of a clear or nothing, while it is under way too.
func TestClearIsOneStepForReaders(t *testing.T) {
	const keys = 100_000
	first, last := "k0", fmt.Sprint("k", keys-1)
	for _, tt := range []struct{ gone, then string }{{first, last}, {last, first}} {
		s := Share(New(Options{}))
		update := func(f func(m *Machine)) {
			if _, err := s.Update(f); err != nil {
				t.Error(err)
			}
		}
		update(func(m *Machine) {
			for i := range keys {
				apply(t, m, kv.Command{Op: kv.OpSet, Key: fmt.Sprint("k", i)})
			}
			apply(t, m, kv.Command{Op: kv.OpSet, Key: "stays"})
		})
		var writer sync.WaitGroup
		writer.Go(func() {
			update(func(m *Machine) { apply(t, m, kv.Command{Op: kv.OpClear, Key: "k"}) })
		})
		var entry kv.Entry
		for s.Get(tt.gone, time.Now, &entry) == nil {
			if entry.Key != tt.gone {
				t.Errorf("beside the clear %s is read as %+v", tt.gone, entry)
				break
			}
			entry = kv.Entry{}
		}
		if err := s.Get(tt.then, time.Now, &entry); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("%s is gone, and then %s is there: %v", tt.gone, tt.then, err)
		}
		if err := s.Get("stays", time.Now, &entry); err != nil {
			t.Errorf("beside the clear: %v", err)
		}
		writer.Wait()
	}
}

// A read may show a write whose revision is not told yet; whoever then asks for the
// revision, or for the events, has that write.
func TestWhatWasReadIsSettled(t *testing.T) {
	s := Share(New(Options{}))
	type answer struct {
		settled uint64
		replay  kv.Replay
		err     error
	}
	answers := make(chan answer, 1)
	_, err := s.Update(func(m *Machine) {
		n := m.insert("k")
		n.current.Store(&version{value: "v", revision: 1})
		var entry kv.Entry
		if err := s.Get("k", time.Now, &entry); err != nil || entry.Revision <= s.Revision() {
			t.Errorf("in the middle of a write %+v is read, %v, at revision %d", entry, err, s.Revision())
		}
		asked := make(chan struct{})
		go func() {
			close(asked)
			var a answer
			a.replay, a.err = s.Replay(kv.ReplayQuery{})
			a.settled = s.Settled()
			answers <- a
		}()
		<-asked
		for range 100 { // it would go by the revision that it finds
			runtime.Gosched()
		}
		m.revision.Store(1)
		m.emit(kv.EventSet, "k", nil, n.version(), kv.Trace{})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got.err != nil || got.settled != 1 || got.replay.Revision != 1 || len(got.replay.Events) != 1 {
		t.Errorf("after a read of revision 1 the store is at %d, with the events %+v, %v", got.settled, got.replay, got.err)
	}
}
