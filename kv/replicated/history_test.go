package replicated_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// holdsLittle has a ring for a few events only.
var holdsLittle = replicated.Options{SnapshotBytes: 1 << 40, SnapshotAge: time.Hour, LogTail: 1, ReplayEvents: 8}

// eventsBetween returns the events that a store holds.
func eventsBetween(t *testing.T, store *replicated.Store, after, upTo uint64) []kv.Event {
	t.Helper()
	events := make([]kv.Event, upTo-after)
	for n := 0; n < len(events); {
		more, err := store.Events(after+uint64(n), events[n:])
		if err != nil || more == 0 {
			t.Fatalf("after revision %d the store holds %d events, %v", after+uint64(n), more, err)
		}
		n += more
	}
	return events
}

// checkHistory compares the history of store after a record with the events that
// another one, which holds all, had of each record up to last.
func checkHistory(t *testing.T, store, all *replicated.Store, after, last uint64) {
	t.Helper()
	before, err := all.RevisionAfter(bounded(t), after)
	if err != nil {
		t.Fatal(err)
	}
	sequence := after
	for events, err := range store.History(bounded(t), after) {
		if err != nil {
			t.Fatalf("after record %d: %v", sequence, err)
		}
		sequence++
		revision, err := all.RevisionAfter(bounded(t), sequence)
		if err != nil {
			t.Fatal(err)
		}
		want := eventsBetween(t, all, before, revision)
		for event := range events {
			if len(want) == 0 {
				t.Fatalf("record %d has one event more: %+v", sequence, event)
			}
			if !reflect.DeepEqual(event, want[0]) {
				t.Fatalf("an event of record %d is\n%+v, want\n%+v", sequence, event, want[0])
			}
			want = want[1:]
		}
		if len(want) > 0 {
			t.Fatalf("of record %d %d events are missing", sequence, len(want))
		}
		before = revision
		if sequence == last {
			return
		}
	}
	t.Fatalf("the history ends with record %d", sequence)
}

// tracedAndRepeated writes with what only some commands have.
func tracedAndRepeated(t *testing.T, store kv.Store, n int) {
	t.Helper()
	for i := range n {
		cmd := kv.Command{
			Op: kv.OpIncrement, Key: "traced", Delta: 1, RequestID: fmt.Sprint("request", i/2),
			Trace: kv.Trace{Parent: fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%016x-01", i+1), State: "vendor=1"},
		}
		if _, err := store.Do(bounded(t), cmd); err != nil {
			t.Fatal(err)
		}
	}
}

// The events that a worker's ring has dropped are made anew as they were, from a
// snapshot and from the beginning of the log, by a worker that was there and by
// one that came later.
func TestHistoryIsWhatHappened(t *testing.T) {
	for name, snapshots := range map[string]int{"from the beginning of the log": 0, "from a snapshot": 1, "from the older one of two": 2} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			r := rand.New(rand.NewPCG(8, 8))
			little := open(t, s, holdsLittle)
			all := open(t, s, replicated.Options{SnapshotBytes: 1 << 40})
			churn(t, little, r, 100)
			tracedAndRepeated(t, little, 11)
			after := uint64(0)
			for i := range snapshots {
				churn(t, all, r, 100)
				tracedAndRepeated(t, little, 11)
				snapshot(t, little)
				if i == 0 {
					after = little.Applied()
				}
			}
			tracedAndRepeated(t, all, 21) // the first ones are repeats
			churn(t, all, r, 200)
			if _, err := kv.Of(all).Clear(bounded(t), ""); err != nil {
				t.Fatal(err)
			}
			late := open(t, s, holdsLittle)
			churn(t, all, r, 50)
			last := all.Applied()
			for _, store := range []*replicated.Store{little, late} {
				checkHistory(t, store, all, after, last)
				checkHistory(t, store, all, after+77, last)
			}
		})
	}
}

// One record may have any number of events.
func TestHistoryOfALargeClear(t *testing.T) {
	s := startServer(t)
	little := open(t, s, holdsLittle)
	all := open(t, s, replicated.Options{})
	const keys = 3000
	answers := make(chan error, keys)
	for i := range keys {
		little.Submit(bounded(t), kv.Command{Op: kv.OpSet, Key: fmt.Sprint("k", i)}, func(_ kv.Result, err error) { answers <- err })
	}
	for range keys {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	before := little.Applied()
	if n, err := kv.Of(little).Clear(bounded(t), "k"); err != nil || n != keys {
		t.Fatalf("%d of %d keys were removed, %v", n, keys, err)
	}
	if _, err := all.Info(bounded(t)); err != nil { // waits until all is there
		t.Fatal(err)
	}
	checkHistory(t, little, all, before, little.Applied())
}

// Where neither a snapshot nor the log leads there, there is no history.
func TestHistoryIsGone(t *testing.T) {
	s := startServer(t)
	r := rand.New(rand.NewPCG(9, 9))
	store := open(t, s, holdsLittle)
	for range 3 {
		churn(t, store, r, 50)
		snapshot(t, store)
	}
	for events, err := range store.History(bounded(t), 1) {
		if !errors.Is(err, kv.ErrCompacted) {
			t.Errorf("what was removed is %v, %v; want ErrCompacted", events, err)
		}
	}
}

// Who waits for the next record of a history stops waiting when the store is
// closed, or the context ends.
func TestHistoryEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(store *replicated.Store, cancel func())
		want error
	}{
		"closed":   {func(store *replicated.Store, _ func()) { store.Close() }, kv.ErrClosed},
		"canceled": {func(_ *replicated.Store, cancel func()) { cancel() }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			store := open(t, s, holdsLittle)
			tracedAndRepeated(t, store, 50)
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			next, stop := iter.Pull2(store.History(ctx, 0))
			defer stop()
			for range store.Applied() {
				if _, err, _ := next(); err != nil {
					t.Fatal(err)
				}
			}
			time.AfterFunc(10*time.Millisecond, func() { test.end(store, cancel) }) // it should wait by then, and ends in any case
			if _, err, ok := next(); !ok || !errors.Is(err, test.want) {
				t.Errorf("the wait ends with %v", err)
			}
			if _, _, ok := next(); ok {
				t.Error("something comes after the error")
			}
		})
	}
}

// A hold is a dialer to a server. Once it is set, its connections hold back the first
// write that has its text, until it is released.
type hold struct {
	address string
	text    string
	set     atomic.Bool
	held    chan struct{}
	release chan struct{}
}

type holdConn struct {
	net.Conn
	hold *hold
}

func (h *hold) Dial(network, _ string) (net.Conn, error) {
	conn, err := net.Dial(network, h.address)
	return holdConn{conn, h}, err
}

func (c holdConn) Write(data []byte) (int, error) {
	if bytes.Contains(data, []byte(c.hold.text)) && c.hold.set.CompareAndSwap(true, false) {
		close(c.hold.held)
		<-c.hold.release
	}
	return c.Conn.Write(data)
}

// A snapshot that another worker takes between the questions for the log and for the
// snapshots is no sign that the log has lost its end.
func TestHistoryBesideASnapshot(t *testing.T) {
	s := startServer(t)
	other := open(t, s, replicated.Options{})
	way := &hold{address: s.Addr().String(), text: "STREAM.INFO.OBJ_KVBUS_kv ", held: make(chan struct{}), release: make(chan struct{})}
	store, err := replicated.Open(bounded(t), bustest.Connect(t, s, nats.SetCustomDialer(way)), replicated.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	set := func(n int) (revision uint64) {
		t.Helper()
		for i := range n {
			if revision, err = kv.Of(other).Set(bounded(t), fmt.Sprint("k", i), "v"); err != nil {
				t.Fatal(err)
			}
		}
		return revision
	}
	last := set(20)
	after := other.Applied()

	way.set.Store(true)
	var reading sync.WaitGroup
	reading.Go(func() {
		for events, err := range store.History(bounded(t), after) {
			if err != nil {
				t.Error(err)
				return
			}
			for event := range events {
				if event.Revision != last+1 {
					t.Errorf("the first event after revision %d is that of %d", last, event.Revision)
				}
				return
			}
		}
	})
	defer reading.Wait()
	release := sync.OnceFunc(func() { close(way.release) })
	defer release()
	select {
	case <-way.held:
	case <-bounded(t).Done():
		t.Fatal("nobody asks for the snapshots")
	}
	set(5)
	snapshot(t, other)
	release()
	set(1)
}
