package machine

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"kvbus/kv"
)

// After any history the queue's front is what a search over all keys finds.
func TestDeadlinesAgainstSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	m := New(Options{ReplayEvents: 1})
	for now := int64(1); now < 20_000; now++ {
		cmd := kv.Command{Op: kv.OpSet, Key: fmt.Sprint("k", r.IntN(200))}
		switch r.IntN(6) {
		case 0:
			cmd.Op = kv.OpDelete
		case 1:
			cmd.Op, cmd.TTL = kv.OpTouch, time.Duration(r.IntN(500))
		case 2: // no deadline
		case 3:
			cmd.KeepTTL = true
		default:
			cmd.TTL = time.Duration(1 + r.IntN(500))
		}
		if _, err := m.Apply(now, &cmd); err != nil {
			t.Fatal(err)
		}
		var want int64
		m.index.Scan(func(_ string, n *node) bool {
			if at := n.current.Load().deadline; at != 0 && (want == 0 || at < want) {
				want = at
			}
			return true
		})
		if bound := m.DeadlineBound(); want != 0 && bound > want {
			t.Fatalf("at %d the bound is %d, after the deadline %d", now, bound, want)
		}
		if got, ok := m.NextDeadline(); got != want || ok != (want != 0) {
			t.Fatalf("at %d the next deadline is %d, %v; want %d", now, got, ok, want)
		}
	}
}

// A renewed deadline leaves no trace in the queue: it holds each key once.
func TestDeadlinesHoldAKeyOnce(t *testing.T) {
	m := New(Options{})
	for i := range int64(1000) {
		if _, err := m.Apply(i, &kv.Command{Op: kv.OpSet, Key: "k", TTL: time.Duration(1000 - i%7)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(m.deadlines.heap); n != 1 {
		t.Errorf("one key takes %d places", n)
	}
	if _, err := m.Apply(1000, &kv.Command{Op: kv.OpDelete, Key: "k"}); err != nil {
		t.Fatal(err)
	}
	if n := len(m.deadlines.heap); n != 0 {
		t.Errorf("no key takes %d places", n)
	}
}

// The queue gives back what many deadlines took, and is still in order.
func TestDeadlinesShrink(t *testing.T) {
	m := New(Options{ReplayEvents: 1})
	const many = 20_000
	for i := range int64(many) {
		if _, err := m.Apply(1, &kv.Command{Op: kv.OpSet, Key: fmt.Sprint("k", i), TTL: time.Duration(1 + i*7919%many)}); err != nil {
			t.Fatal(err)
		}
	}
	for now := int64(2); now <= many; now += 997 {
		m.Expire(now)
		if next, ok := m.NextDeadline(); !ok || next != now+1 {
			t.Fatalf("at %d the next deadline is %d, %v", now, next, ok)
		}
		if n := len(m.deadlines.heap); cap(m.deadlines.heap) > max(keptDeadlines, 4*n) {
			t.Fatalf("%d deadlines take the room of %d", n, cap(m.deadlines.heap))
		}
	}
}

// Entries with one deadline expire in the order of their revisions, in a machine
// that was restored too, whose queue was filled in another order.
func TestEqualDeadlinesExpireByRevision(t *testing.T) {
	m := New(Options{})
	for i := range 100 {
		apply(t, m, kv.Command{Op: kv.OpSet, Key: fmt.Sprint("k", i%70), TTL: 10})
	}
	view := m.View()
	defer view.Close()
	restored, err := Restore(Options{}, view.State(), nil, func(yield func(kv.Entry, error) bool) {
		for entry := range view.All() {
			if !yield(entry, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*Machine{"filled": m, "restored": restored} {
		before := m.Revision()
		if n := m.Expire(11); n != 70 {
			t.Fatalf("%s: %d keys have expired, want 70", name, n)
		}
		events := make([]kv.Event, 70)
		if n, err := m.Events(before, events); n != len(events) || err != nil {
			t.Fatalf("%s: %d events, %v", name, n, err)
		}
		for i, event := range events {
			if want := uint64(31 + i); event.PreviousRevision != want {
				t.Fatalf("%s: expiry %d is of revision %d, want %d", name, i, event.PreviousRevision, want)
			}
		}
	}
}
