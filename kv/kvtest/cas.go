package kvtest

import (
	"errors"

	"kvbus/kv"
)

func casChecks() []check {
	return []check{
		{"by value", checkCASValue},
		{"by absence", checkCASAbsent},
		{"by revision", checkCASRevision},
		{"an expired key is absent", checkCASExpired},
		{"empty is not absent", checkCASEmpty},
		{"needs an expectation", checkCASNeeds},
	}
}

// swap carries out a compare-and-swap; if it must hold it makes a mutation,
// else it gives the current revision and changes nothing.
func (s *subject) swap(expect kv.Expectation, value string, holds bool) {
	s.e.Helper()
	before := s.revision()
	old, err := s.Get(s.ctx, "key")
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		s.e.Fatal(err)
	}
	swapped, revision, err := s.CompareAndSwap(s.ctx, "key", expect, value)
	if err != nil {
		s.e.Fatalf("cas %+v: %v", expect, err)
	}
	s.e.equal("swapped", swapped, holds)
	if !holds {
		s.e.equal("revision given with a swap that does not hold", revision, old.Revision)
		s.e.equal("revision of the store after it", s.revision(), before)
		return
	}
	s.e.equal("revision of a swap", revision, before+1)
	s.e.equal("entry", s.entry("key"), kv.Entry{Key: "key", Value: value, Revision: revision})
	s.e.same(s.event(revision), kv.Event{Kind: kv.EventSet, Key: "key", Value: value, Revision: revision, PreviousRevision: old.Revision})
}

func checkCASValue(e *env) {
	s := e.open()
	s.swap(kv.IfValue("one"), "two", false)
	s.set("key", "one")
	for _, wrong := range []string{"two", "on", "one ", "ONE", "", "\x00one"} {
		s.swap(kv.IfValue(wrong), "two", false)
	}
	s.swap(kv.IfValue("one"), "two", true)
	s.swap(kv.IfValue("one"), "three", false)
	s.swap(kv.IfValue("two"), "two", true)
	s.swap(kv.IfValue("two"), allBytes(), true)
	s.swap(kv.IfValue(allBytes()[1:]), "", false)
	s.swap(kv.IfValue(allBytes()), "", true)
}

func checkCASAbsent(e *env) {
	s := e.open()
	s.swap(kv.IfAbsent(), "one", true)
	s.swap(kv.IfAbsent(), "two", false)
	s.remove("key")
	s.swap(kv.IfAbsent(), "two", true)
}

func checkCASRevision(e *env) {
	s := e.open()
	s.swap(kv.IfRevision(1), "one", false)
	s.swap(kv.IfRevision(0), "one", true)
	s.set("other", "")
	s.swap(kv.IfRevision(0), "two", false)
	s.swap(kv.IfRevision(2), "two", false)
	s.swap(kv.IfRevision(1), "two", true)
	s.swap(kv.IfRevision(1), "three", false)
	s.remove("key")
	s.swap(kv.IfRevision(3), "four", false)
	s.swap(kv.IfRevision(0), "four", true)
}

func checkCASExpired(e *env) {
	s := e.open()
	swap := func(expect kv.Expectation, want bool) {
		e.Helper()
		old := s.expired("key", "old")
		if expect.Kind == kv.ExpectRevision && expect.Revision != 0 {
			expect.Revision = old
		}
		result := s.do(kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Expect: expect, Value: "new"})
		e.equal("swap of an expired key", result.Applied, want)
		if !want {
			e.equal("revision of no live key", result.Revision, uint64(0))
			s.settled(old + 1)
			return
		}
		s.settled(old + 2)
		e.equal("revision before it of the key", s.event(result.Revision).PreviousRevision, uint64(0))
		s.holds("key", "new")
	}
	swap(kv.IfAbsent(), true)
	swap(kv.IfRevision(0), true)
	swap(kv.IfValue("old"), false)
	swap(kv.IfRevision(1), false)
}

func checkCASEmpty(e *env) {
	s := e.open()
	s.swap(kv.IfValue(""), "one", false)
	s.set("key", "")
	s.swap(kv.IfAbsent(), "one", false)
	s.swap(kv.IfValue(""), "one", true)
}

func checkCASNeeds(e *env) {
	s := e.open()
	s.refuses(kv.ErrInvalidArgument, kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Value: "one"})
	s.refuses(kv.ErrInvalidArgument, kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.Expectation{Kind: 99}})
	s.lacks("key")
}
