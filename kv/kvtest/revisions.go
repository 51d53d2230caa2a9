package kvtest

import (
	"slices"
	"time"

	"kvbus/kv"
)

func revisionChecks() []check {
	return []check{
		{"up by one with each mutation", checkRevisionSteps},
		{"none for what changes nothing", checkRevisionStays},
		{"each key's events are a chain", checkRevisionChain},
		{"time does not go backwards", checkEventTimes},
	}
}

func checkRevisionSteps(e *env) {
	s := e.open()
	e.equal("revision of an empty store", s.revision(), uint64(0))
	for i, cmd := range []kv.Command{
		{Op: kv.OpSet, Key: "a", Value: "1"},
		{Op: kv.OpSet, Key: "b", Value: "1"},
		{Op: kv.OpIncrement, Key: "a", Delta: 0},
		{Op: kv.OpCompareAndSwap, Key: "b", Expect: kv.IfValue("1"), Value: "1"},
		{Op: kv.OpTouch, Key: "a", TTL: time.Hour},
		{Op: kv.OpTouch, Key: "a", TTL: time.Hour},
		{Op: kv.OpDelete, Key: "a"},
		{Op: kv.OpSet, Key: "a"},
	} {
		result := s.do(cmd)
		e.equal("revision of "+describe(cmd), result.Revision, uint64(i+1))
		e.equal("revision of the store", s.revision(), uint64(i+1))
	}
	replay := s.replay(kv.ReplayQuery{})
	e.equal("events", len(replay.Events), 8)
	for i, event := range replay.Events {
		e.equal("revision of an event", event.Revision, uint64(i+1))
	}
}

func checkRevisionStays(e *env) {
	s := e.openWith(Options{Limits: kv.Limits{MaxKeys: 1, MaxValueSize: 5}})
	s.set("key", "text")
	for _, c := range []struct {
		cmd  kv.Command
		want error
	}{
		{kv.Command{Op: kv.OpSet, Key: "key", Value: "too large"}, kv.ErrValueTooLarge},
		{kv.Command{Op: kv.OpSet, Key: "other"}, kv.ErrQuotaExceeded},
		{kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1}, kv.ErrNotANumber},
		{kv.Command{Op: kv.OpSet, Key: "key", Expect: kv.IfRevision(7)}, kv.ErrConflict},
		{kv.Command{Op: kv.OpDelete, Key: "key", Expect: kv.IfRevision(7)}, kv.ErrConflict},
		{kv.Command{Op: kv.OpSet, Key: "key", TTL: -1}, kv.ErrInvalidArgument},
		{kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.IfAbsent()}, nil},
		{kv.Command{Op: kv.OpDelete, Key: "other"}, nil},
		{kv.Command{Op: kv.OpTouch, Key: "other"}, nil},
		{kv.Command{Op: kv.OpClear, Key: "other"}, nil},
	} {
		s.refuses(c.want, c.cmd)
	}
	e.equal("next revision", s.set("key", ""), uint64(2))
	e.equal("events", len(s.replay(kv.ReplayQuery{}).Events), 2)
}

// checkRevisionChain has the events of a busy history tell by themselves what
// was before each of them.
func checkRevisionChain(e *env) {
	s := e.open()
	keys := []string{"a", "b", "c"}
	for i := range 60 {
		key := keys[i%3]
		switch i % 7 {
		case 2:
			s.remove(key)
		case 4:
			s.do(kv.Command{Op: kv.OpTouch, Key: key})
		case 5:
			s.do(kv.Command{Op: kv.OpClear, Key: key})
		case 6:
			s.expired(key, "")
		default:
			s.set(key, "value")
		}
	}
	s.do(kv.Command{Op: kv.OpClear})
	e.eventually("the last expired entry had its event", func() bool { return s.info().Keys == 0 })
	last := map[string]uint64{}
	for _, event := range s.replay(kv.ReplayQuery{}).Events {
		e.equal("previous revision of "+event.Key, event.PreviousRevision, last[event.Key])
		if last[event.Key] = event.Revision; event.Kind == kv.EventDelete || event.Kind == kv.EventExpire {
			last[event.Key] = 0
		}
	}
}

func checkEventTimes(e *env) {
	s := e.open()
	began := time.Now()
	for range 20 {
		s.set("a", "")
		s.expired("b", "")
	}
	s.settled(60)
	events := s.replay(kv.ReplayQuery{}).Events
	if !slices.IsSortedFunc(events, func(a, b kv.Event) int { return a.Time.Compare(b.Time) }) {
		e.Errorf("the times of the events go backwards: %+v", events)
	}
	for _, event := range events {
		if event.Time.Before(began.Add(-time.Second)) || event.Time.After(time.Now().Add(time.Second)) {
			e.Errorf("event %d is of %v, not of now", event.Revision, event.Time)
		}
	}
}
