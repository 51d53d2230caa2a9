package kvtest

import (
	"time"

	"kvbus/kv"
)

func setChecks() []check {
	return []check{
		{"creates and replaces", checkSet},
		{"the same value is a mutation", checkSetSame},
		{"expected revision", checkSetExpected},
		{"expected absence", checkSetExpectedAbsent},
		{"no other expectation", checkSetOtherExpectations},
		{"trace context goes on to the event", checkTrace},
	}
}

func checkSet(e *env) {
	s := e.open()
	s.lacks("key")
	first := s.do(kv.Command{Op: kv.OpSet, Key: "key", Value: "one"})
	e.equal("result of a set", first, kv.Result{Applied: true, Revision: 1})
	e.equal("entry", s.entry("key"), kv.Entry{Key: "key", Value: "one", Revision: 1})
	second := s.do(kv.Command{Op: kv.OpSet, Key: "key", Value: "two"})
	e.equal("result of a set", second, kv.Result{Applied: true, Revision: 2})
	e.equal("entry", s.entry("key"), kv.Entry{Key: "key", Value: "two", Revision: 2})
	e.same(s.event(1), kv.Event{Kind: kv.EventSet, Key: "key", Value: "one", Revision: 1})
	e.same(s.event(2), kv.Event{Kind: kv.EventSet, Key: "key", Value: "two", Revision: 2, PreviousRevision: 1})
}

func checkSetSame(e *env) {
	s := e.open()
	first := s.set("key", "value")
	second := s.set("key", "value")
	e.equal("revision of the second set", second, first+1)
	e.same(s.event(second), kv.Event{Kind: kv.EventSet, Key: "key", Value: "value", Revision: second, PreviousRevision: first})
}

func checkSetExpected(e *env) {
	s := e.open()
	stale := s.set("key", "one")
	current := s.set("key", "two", kv.AtRevision(stale))
	s.holds("key", "two")
	s.set("other", "")
	for _, wrong := range []uint64{0, stale, current + 1, current + 2} {
		result := s.refuses(kv.ErrConflict, kv.Command{Op: kv.OpSet, Key: "key", Value: "three", Expect: kv.IfRevision(wrong)})
		e.equal("revision given with a conflict", result.Revision, current)
	}
	s.holds("key", "two")
	s.set("key", "three", kv.AtRevision(current))
	s.holds("key", "three")
}

func checkSetExpectedAbsent(e *env) {
	s := e.open()
	revision := s.set("key", "one", kv.AtRevision(0))
	s.remove("key")
	for _, wrong := range []uint64{revision, revision + 1} {
		result := s.refuses(kv.ErrConflict, kv.Command{Op: kv.OpSet, Key: "key", Expect: kv.IfRevision(wrong)})
		e.equal("revision of no live key given with a conflict", result.Revision, uint64(0))
	}
	s.set("key", "two", kv.AtRevision(0))
	revision = s.expired("key", "three")
	_, err := s.Set(s.ctx, "key", "four", kv.AtRevision(revision))
	s.wantErr("set at the revision of an expired entry", err, kv.ErrConflict)
	s.set("key", "four", kv.AtRevision(0))
	s.holds("key", "four")
}

func checkSetOtherExpectations(e *env) {
	s := e.open()
	s.set("key", "one")
	for _, expect := range []kv.Expectation{kv.IfAbsent(), kv.IfValue("one"), {Kind: 99}} {
		for _, op := range []kv.Op{kv.OpSet, kv.OpDelete, kv.OpIncrement, kv.OpTouch} {
			s.refuses(kv.ErrInvalidArgument, kv.Command{Op: op, Key: "key", Expect: expect})
		}
	}
	for _, op := range []kv.Op{kv.OpIncrement, kv.OpTouch} {
		s.refuses(kv.ErrInvalidArgument, kv.Command{Op: op, Key: "key", Expect: kv.IfRevision(1)})
	}
	s.refuses(kv.ErrInvalidArgument, kv.Command{Op: 0, Key: "key"})
	s.refuses(kv.ErrInvalidArgument, kv.Command{Op: 99, Key: "key"})
	s.holds("key", "one")
}

func checkTrace(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	trace := kv.Trace{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", State: "a=1"}
	for _, cmd := range []kv.Command{
		{Op: kv.OpSet, Key: "key", Value: "1"},
		{Op: kv.OpIncrement, Key: "key", Delta: 1},
		{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.IfValue("2")},
		{Op: kv.OpTouch, Key: "key"},
		{Op: kv.OpDelete, Key: "key"},
	} {
		cmd.Trace = trace
		s.do(cmd)
		if got := w.next().Trace; got != trace {
			e.Errorf("%v: the event has trace %+v, want %+v", cmd.Op, got, trace)
		}
	}
	s.set("key", "1")
	if got := w.next().Trace; got != (kv.Trace{}) {
		e.Errorf("the event of a command without a trace has %+v", got)
	}
}

func deleteChecks() []check {
	return []check{
		{"says whether a live key was there", checkDelete},
		{"an expired key is not there", checkDeleteExpired},
		{"expected revision", checkDeleteExpected},
		{"exists", checkExists},
	}
}

func checkDelete(e *env) {
	s := e.open()
	absent := func() {
		s.unchanged("delete of an absent key", func() {
			e.equal("result", s.do(kv.Command{Op: kv.OpDelete, Key: "key"}), kv.Result{})
		})
	}
	absent()
	revision := s.set("key", "value")
	result := s.do(kv.Command{Op: kv.OpDelete, Key: "key"})
	e.equal("result of a delete", result, kv.Result{Applied: true, Revision: revision + 1})
	e.same(s.event(revision+1), kv.Event{Kind: kv.EventDelete, Key: "key", Revision: revision + 1, PreviousRevision: revision})
	s.lacks("key")
	absent()
	again := s.set("key", "again")
	e.same(s.event(again), kv.Event{Kind: kv.EventSet, Key: "key", Value: "again", Revision: again})
}

func checkDeleteExpired(e *env) {
	s := e.open()
	revision := s.expired("key", "value")
	result := s.do(kv.Command{Op: kv.OpDelete, Key: "key"})
	e.equal("delete of an expired key", result, kv.Result{})
	s.settled(revision + 1)
	e.equal("kind of its event", s.event(revision+1).Kind, kv.EventExpire)
}

func checkDeleteExpected(e *env) {
	s := e.open()
	stale := s.set("key", "one")
	current := s.set("key", "two")
	for _, wrong := range []uint64{0, stale, current + 1} {
		result := s.refuses(kv.ErrConflict, kv.Command{Op: kv.OpDelete, Key: "key", Expect: kv.IfRevision(wrong)})
		e.equal("revision given with a conflict", result.Revision, current)
	}
	s.holds("key", "two")
	removed, err := s.Delete(s.ctx, "key", kv.AtRevision(current))
	if err != nil || !removed {
		e.Errorf("delete at the current revision: %v, %v", removed, err)
	}
	result := s.refuses(kv.ErrConflict, kv.Command{Op: kv.OpDelete, Key: "key", Expect: kv.IfRevision(current)})
	e.equal("revision of no live key given with a conflict", result.Revision, uint64(0))
	s.unchanged("delete of what is expected to be absent", func() {
		removed, err := s.Delete(s.ctx, "key", kv.AtRevision(0))
		if err != nil || removed {
			e.Errorf("delete at revision 0 of an absent key: %v, %v", removed, err)
		}
	})
}

func checkExists(e *env) {
	s := e.open()
	want := func(key string, want bool) {
		e.Helper()
		got, err := s.Exists(s.ctx, key)
		if err != nil || got != want {
			e.Errorf("exists %q: %v, %v; want %v", key, got, err, want)
		}
	}
	want("key", false)
	s.set("key", "value")
	want("key", true)
	want("ke", false)
	want("key.", false)
	s.remove("key")
	want("key", false)
	s.expired("key", "value")
	want("key", false)
	_, err := s.Exists(s.ctx, "*")
	s.wantErr("exists of an invalid key", err, kv.ErrInvalidKey)
}

func touchChecks() []check {
	return []check{
		{"moves the deadline and leaves the value", checkTouchMoves},
		{"removes the deadline", checkTouchRemoves},
		{"absent key", checkTouchAbsent},
		{"the value stays out of the event", checkTouchEvent},
	}
}

func checkTouchMoves(e *env) {
	s := e.open()
	for _, before := range []time.Duration{0, time.Hour, 3 * time.Hour} {
		revision := s.do(kv.Command{Op: kv.OpSet, Key: "key", Value: "value", TTL: before}).Revision
		result := s.do(kv.Command{Op: kv.OpTouch, Key: "key", TTL: 2 * time.Hour})
		event := s.event(revision + 1)
		deadline := event.Time.Add(2 * time.Hour)
		e.equal("result of a touch", result, kv.Result{Applied: true, Revision: revision + 1, ExpiresAt: deadline})
		e.equal("entry", s.entry("key"), kv.Entry{Key: "key", Value: "value", Revision: revision + 1, ExpiresAt: deadline})
	}
}

func checkTouchRemoves(e *env) {
	s := e.open()
	revision := s.set("key", "value", kv.WithTTL(time.Hour))
	touched, err := s.Touch(s.ctx, "key", 0)
	if err != nil || !touched {
		e.Errorf("touch: %v, %v; want true", touched, err)
	}
	e.equal("entry", s.entry("key"), kv.Entry{Key: "key", Value: "value", Revision: revision + 1})
	e.same(s.event(revision+1), kv.Event{Kind: kv.EventTouch, Key: "key", Revision: revision + 1, PreviousRevision: revision})
}

func checkTouchAbsent(e *env) {
	s := e.open()
	s.unchanged("touch of an absent key", func() {
		e.equal("result", s.do(kv.Command{Op: kv.OpTouch, Key: "key", TTL: time.Hour}), kv.Result{})
	})
	revision := s.expired("key", "value")
	e.equal("touch of an expired key", s.do(kv.Command{Op: kv.OpTouch, Key: "key", TTL: time.Hour}), kv.Result{})
	s.lacks("key")
	s.settled(revision + 1)
}

func checkTouchEvent(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	revision := s.set("key", "value")
	result := s.do(kv.Command{Op: kv.OpTouch, Key: "key", TTL: time.Hour})
	want := kv.Event{Kind: kv.EventTouch, Key: "key", Revision: revision + 1, PreviousRevision: revision, ExpiresAt: result.ExpiresAt}
	w.next()
	e.same(w.next(), want)
	e.same(s.event(revision+1), want)
}
