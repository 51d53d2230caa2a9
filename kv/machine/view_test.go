package machine

import (
	"fmt"
	"testing"
	"time"

	"kvbus/kv"
)

func apply(t *testing.T, m *Machine, cmd kv.Command) {
	t.Helper()
	if _, err := m.Apply(1, &cmd); err != nil {
		t.Fatal(err)
	}
}

func TestViewKeepsNothingAfterClose(t *testing.T) {
	m := New(Options{})
	for i := range 100 {
		apply(t, m, kv.Command{Op: kv.OpSet, Key: fmt.Sprint(i), Value: "before"})
	}
	first, second := m.View(), m.View()
	for i := range 100 {
		apply(t, m, kv.Command{Op: kv.OpSet, Key: fmt.Sprint(i), Value: "after"})
	}
	if len(first.kept) != 100 || len(second.kept) != 100 {
		t.Fatalf("the views keep %d and %d versions, want 100 each", len(first.kept), len(second.kept))
	}
	first.Close()
	if first.kept != nil || first.index != nil {
		t.Error("a view that was closed holds on to the past until something else happens")
	}
	apply(t, m, kv.Command{Op: kv.OpSet, Key: "1", Value: "later"})
	if len(m.views) != 1 || m.views[0] != second {
		t.Errorf("%d views are open after one of two was closed", len(m.views))
	}
	second.Close()
	apply(t, m, kv.Command{Op: kv.OpSet, Key: "1", Value: "last"})
	if len(m.views) != 0 {
		t.Errorf("%d views are open after all were closed", len(m.views))
	}
}

// Scans that follow one another, with no write between them, leave no more than
// the view of the last one behind.
func TestScansLeaveNoViews(t *testing.T) {
	s := Share(New(Options{}))
	for range 10 {
		if _, err := s.Scan(kv.Query{}, time.Now); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Update(func(m *Machine) {
		if n := len(m.views); n != 1 || !m.views[0].closed.Load() {
			t.Errorf("after ten scans there are %d views, closed %v", n, m.views[0].closed.Load())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A page is of the view's revision whatever happened since, also to keys that
// were deleted and created anew.
func TestViewIsFrozen(t *testing.T) {
	m := New(Options{})
	for _, key := range []string{"a", "b", "c"} {
		apply(t, m, kv.Command{Op: kv.OpSet, Key: key, Value: key + "1"})
	}
	view := m.View()
	defer view.Close()
	apply(t, m, kv.Command{Op: kv.OpSet, Key: "a", Value: "a2"})
	apply(t, m, kv.Command{Op: kv.OpSet, Key: "a", Value: "a3"})
	apply(t, m, kv.Command{Op: kv.OpDelete, Key: "b"})
	apply(t, m, kv.Command{Op: kv.OpSet, Key: "b", Value: "b2"})
	apply(t, m, kv.Command{Op: kv.OpClear, Key: "c"})
	apply(t, m, kv.Command{Op: kv.OpSet, Key: "d", Value: "d1"})

	page, err := view.Scan(kv.Query{}, time.Unix(0, 1))
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, e := range page.Entries {
		got += fmt.Sprintf("%s=%s@%d ", e.Key, e.Value, e.Revision)
	}
	if want := "a=a1@1 b=b1@2 c=c1@3 "; got != want || page.Revision != 3 {
		t.Errorf("the view shows %s at revision %d, want %s at 3", got, page.Revision, want)
	}
}
