package kvtest

import (
	"fmt"
	"strings"
	"time"

	"kvbus/kv"
)

func repeatChecks() []check {
	return []check{
		{"set", checkRepeatSet},
		{"cas", checkRepeatSwap},
		{"increment", checkRepeatIncrement},
		{"delete", checkRepeatDelete},
		{"touch", checkRepeatTouch},
		{"clear", checkRepeatClear},
		{"what did not apply", checkRepeatNotApplied},
		{"errors", checkRepeatErrors},
		{"of another command", checkRepeatOther},
		{"another key or operation", checkRepeatElsewhere},
		{"another trace", checkRepeatTrace},
		{"at the same time", checkRepeatConcurrent},
		{"as many as the limit", checkRepeatCount},
		{"as long as the limit", checkRepeatAge},
		{"limits that change", checkRepeatLimits},
		{"malformed", checkRepeatMalformed},
	}
}

// once carries out a command with an id, and then, with something in between,
// twice again. It returns what each time was answered.
func (s *subject) once(cmd kv.Command, between func()) kv.Result {
	s.e.Helper()
	cmd.RequestID = "once"
	first := s.do(cmd)
	if between != nil {
		between()
	}
	for range 2 {
		s.unchanged("repeat of "+describe(cmd), func() {
			s.e.equal("repeat of "+describe(cmd), s.do(cmd), first)
		})
	}
	return first
}

func checkRepeatSet(e *env) {
	s := e.open()
	first := s.once(kv.Command{Op: kv.OpSet, Key: "key", Value: "1", TTL: time.Hour}, func() { s.set("key", "2") })
	e.equal("first answer", first.Applied && !first.ExpiresAt.IsZero() && first.Revision == 1, true)
	s.holds("key", "2")
	s.remove("key")
	s.once(kv.Command{Op: kv.OpSet, Key: "key", Value: "1", TTL: time.Hour}, nil) // all are repeats
	s.lacks("key")

	revision := s.set("other", "1")
	s.once(kv.Command{Op: kv.OpSet, Key: "other", Value: "2", Expect: kv.IfRevision(revision)}, nil)
	s.holds("other", "2")
}

func checkRepeatSwap(e *env) {
	s := e.open()
	s.once(kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Value: "1", Expect: kv.IfAbsent()}, nil)
	s.set("value", "1")
	first := s.once(kv.Command{Op: kv.OpCompareAndSwap, Key: "value", Value: "2", Expect: kv.IfValue("1")}, func() { s.set("value", "1") })
	e.equal("first answer", first.Applied, true)
	s.holds("value", "1")
}

func checkRepeatIncrement(e *env) {
	s := e.open()
	s.set("key", "10")
	first := s.once(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 5}, nil)
	e.equal("number", first.Number, int64(15))
	s.holds("key", "15")
	s.increment("key", 1, 16)
	e.equal("number", s.once(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 5}, nil).Number, int64(15))
	s.holds("key", "16")
}

func checkRepeatDelete(e *env) {
	s := e.open()
	s.set("key", "1")
	first := s.once(kv.Command{Op: kv.OpDelete, Key: "key"}, func() { s.set("key", "2") })
	e.equal("first answer", first, kv.Result{Applied: true, Revision: 2})
	s.holds("key", "2")
}

func checkRepeatTouch(e *env) {
	s := e.open()
	s.set("key", "1")
	first := s.once(kv.Command{Op: kv.OpTouch, Key: "key", TTL: time.Hour}, func() { s.set("key", "2") })
	e.equal("first answer has a deadline", !first.ExpiresAt.IsZero(), true)
	e.equal("key has a deadline", !s.entry("key").ExpiresAt.IsZero(), false)
}

func checkRepeatClear(e *env) {
	s := e.open()
	s.set("a.1", "1")
	s.set("a.2", "1")
	first := s.once(kv.Command{Op: kv.OpClear, Key: "a."}, func() { s.set("a.3", "1") })
	e.equal("keys removed", first.Number, int64(2))
	s.holds("a.3", "1")
}

// checkRepeatNotApplied has commands that would apply the second time.
func checkRepeatNotApplied(e *env) {
	s := e.open()
	revision := s.set("key", "1")
	first := s.once(kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Value: "3", Expect: kv.IfValue("2")}, func() { s.set("key", "2") })
	e.equal("swap that did not hold", first, kv.Result{Revision: revision})
	s.holds("key", "2")
	s.once(kv.Command{Op: kv.OpDelete, Key: "absent"}, func() { s.set("absent", "1") })
	s.once(kv.Command{Op: kv.OpTouch, Key: "none", TTL: time.Hour}, func() { s.set("none", "1") })
	s.once(kv.Command{Op: kv.OpClear, Key: "nothing."}, func() { s.set("nothing.1", "1") })
	for _, key := range []string{"absent", "none", "nothing.1"} {
		s.holds(key, "1")
	}
}

// checkRepeatErrors has commands that would succeed the second time.
func checkRepeatErrors(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 2, MaxValueSize: 10})
	revision := s.set("key", "text")
	s.set("full", "")
	commands := []struct {
		cmd  kv.Command
		want error
	}{
		{kv.Command{Op: kv.OpSet, Key: "key", Value: "1", Expect: kv.IfRevision(revision + 2)}, kv.ErrConflict},
		{kv.Command{Op: kv.OpDelete, Key: "key", Expect: kv.IfRevision(revision + 2)}, kv.ErrConflict},
		{kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1}, kv.ErrNotANumber},
		{kv.Command{Op: kv.OpSet, Key: "third", Value: "1"}, kv.ErrQuotaExceeded},
		{kv.Command{Op: kv.OpSet, Key: "key", Value: strings.Repeat("v", 11)}, kv.ErrValueTooLarge},
	}
	results := make([]kv.Result, len(commands))
	for i := range commands {
		commands[i].cmd.RequestID = fmt.Sprint("id", i)
		results[i] = s.refuses(commands[i].want, commands[i].cmd)
	}
	s.set("key", "1") // at revision+2
	s.remove("full")
	if !e.NoSetLimits {
		s.do(kv.Command{Op: kv.OpSetLimits})
	}
	for i, c := range commands {
		e.equal("what comes with the error of "+describe(c.cmd), s.refuses(c.want, c.cmd), results[i])
	}
	s.holds("key", "1")
	s.lacks("third")
}

func checkRepeatOther(e *env) {
	s := e.open()
	revision := s.set("key", "1")
	for i, commands := range [][2]kv.Command{
		{{Op: kv.OpSet, Key: "key", Value: "1"}, {Op: kv.OpSet, Key: "key", Value: "2"}},
		{{Op: kv.OpSet, Key: "key", Value: "1"}, {Op: kv.OpSet, Key: "key", Value: "1", TTL: time.Hour}},
		{{Op: kv.OpSet, Key: "key", Value: "1"}, {Op: kv.OpSet, Key: "key", Value: "1", KeepTTL: true}},
		{{Op: kv.OpSet, Key: "key", Value: "1"}, {Op: kv.OpSet, Key: "key", Value: "1", Expect: kv.IfRevision(revision)}},
		{{Op: kv.OpCompareAndSwap, Key: "key", Value: "1", Expect: kv.IfValue("12")}, {Op: kv.OpCompareAndSwap, Key: "key", Value: "21", Expect: kv.IfValue("1")}},
		{{Op: kv.OpCompareAndSwap, Key: "key", Value: "1", Expect: kv.IfAbsent()}, {Op: kv.OpCompareAndSwap, Key: "key", Value: "1", Expect: kv.IfRevision(0)}},
		{{Op: kv.OpIncrement, Key: "key", Delta: 1}, {Op: kv.OpIncrement, Key: "key", Delta: 2}},
		{{Op: kv.OpTouch, Key: "key"}, {Op: kv.OpTouch, Key: "key", TTL: time.Hour}},
		{{Op: kv.OpDelete, Key: "key"}, {Op: kv.OpDelete, Key: "key", Expect: kv.IfRevision(0)}},
	} {
		first, other := commands[0], commands[1]
		first.RequestID = fmt.Sprint("id", i)
		other.RequestID = first.RequestID
		want := s.do(first)
		s.refuses(kv.ErrInvalidArgument, other)
		s.unchanged("repeat", func() { e.equal("repeat of "+describe(first), s.do(first), want) })
	}
}

func checkRepeatElsewhere(e *env) {
	s := e.open()
	for _, cmd := range []kv.Command{
		{Op: kv.OpIncrement, Key: "a", Delta: 1},
		{Op: kv.OpIncrement, Key: "b", Delta: 2},
		{Op: kv.OpSet, Key: "a", Value: "5"},
		{Op: kv.OpTouch, Key: "a"},
		{Op: kv.OpClear, Key: "a"},
		{Op: kv.OpSet, Key: "ai", Value: "6"},
		{Op: kv.OpDelete, Key: "b"},
	} {
		cmd.RequestID = "id"
		e.equal(describe(cmd)+" applied", s.do(cmd).Applied, true)
	}
	// The same text, cut elsewhere.
	e.equal("applied", s.do(kv.Command{Op: kv.OpSet, Key: "a", Value: "7", RequestID: "iid"}).Applied, true)
	s.holds("a", "7")
	s.holds("ai", "6")
	s.lacks("b")
}

func checkRepeatTrace(e *env) {
	s := e.open()
	parent := func(n int) kv.Trace { return kv.Trace{Parent: fmt.Sprintf("00-%032d-%016d-01", n, n)} }
	cmd := kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1, RequestID: "1", Trace: parent(1)}
	first := s.do(cmd)
	cmd.Trace = parent(2)
	s.unchanged("repeat", func() { e.equal("repeat with another trace", s.do(cmd), first) })
}

func checkRepeatConcurrent(e *env) {
	s := e.open()
	const workers = 16
	for round := range 5 {
		cmd := kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1, RequestID: fmt.Sprint("round", round)}
		results := make([]kv.Result, workers)
		s.together(workers, func(i int) (err error) {
			results[i], err = s.Store().Do(s.ctx, cmd)
			return err
		})
		for _, result := range results {
			e.equal("answer", result, results[0])
		}
		s.holds("key", fmt.Sprint(round+1))
		e.equal("revision", s.revision(), uint64(round+1))
	}
}

// again carries out an increment, and says whether it was a repeat.
func (s *subject) again(id string) bool {
	s.e.Helper()
	before := s.revision()
	s.do(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1, RequestID: id})
	return s.revision() == before
}

func checkRepeatCount(e *env) {
	s := e.limited(kv.Limits{MaxRequestIDs: 3})
	for _, id := range []string{"1", "2", "3"} {
		s.again(id)
	}
	for _, id := range []string{"3", "1", "2", "1"} { // a repeat does not renew
		e.equal("repeat within the limit", s.again(id), true)
	}
	s.again("4")
	e.equal("repeat of the one before the limit", s.again("1"), false)
	e.equal("repeat within the limit", s.again("3"), true)
	e.equal("repeat of the one before the limit", s.again("2"), false)
}

func checkRepeatAge(e *env) {
	const age = 300 * time.Millisecond
	s := e.limited(kv.Limits{MaxRequestAge: age})
	cmd := kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1, RequestID: "1"}
	first := s.do(cmd)
	start := s.event(first.Revision).Time
	for end := time.Now().Add(e.Patience); ; time.Sleep(pause) {
		result := s.do(cmd)
		if result == first {
			if time.Now().After(end) {
				e.Fatalf("a repeat is a repeat still after %v; the limit is %v", e.Patience, age)
			}
			continue
		}
		if passed := s.event(result.Revision).Time.Sub(start); passed < age {
			e.Errorf("a repeat after %v was carried out; the limit is %v", passed, age)
		}
		break
	}
	s.holds("key", "2")
}

func checkRepeatLimits(e *env) {
	if e.NoSetLimits {
		return
	}
	s := e.open()
	for _, id := range []string{"1", "2", "3"} {
		s.again(id)
	}
	s.do(kv.Command{Op: kv.OpSetLimits, Limits: kv.Limits{MaxRequestIDs: 2}})
	s.do(kv.Command{Op: kv.OpSetLimits})
	e.equal("repeat of what the lower limit left", s.again("2"), true)
	e.equal("repeat of what the lower limit took", s.again("1"), false)
}

func checkRepeatMalformed(e *env) {
	s := e.open()
	for _, id := range []string{" ", "a b", "ä", "\x7f", "a\n", strings.Repeat("x", kv.MaxRequestIDLength+1)} {
		for _, cmd := range []kv.Command{write(kv.OpSet, "key", ""), {Op: kv.OpClear}} {
			cmd.RequestID = id
			s.refuses(kv.ErrInvalidArgument, cmd)
		}
	}
	// What was refused as malformed used no id up.
	cmd := kv.Command{Op: kv.OpSet, Key: "key", TTL: -1, RequestID: "1"}
	s.refuses(kv.ErrInvalidArgument, cmd)
	cmd.TTL = 0
	e.equal("applied", s.do(cmd).Applied, true)
	longest := kv.Command{Op: kv.OpIncrement, Key: "number", Delta: 1, RequestID: strings.Repeat("~", kv.MaxRequestIDLength)}
	e.equal("repeat of the longest id", s.do(longest), s.do(longest))
}
