package kvtest

import (
	"math"
	"strconv"
	"strings"
	"time"

	"kvbus/kv"
)

func incrementChecks() []check {
	return []check{
		{"an absent key counts as 0", checkIncrementAbsent},
		{"an expired key counts as 0", checkIncrementExpired},
		{"adds", checkIncrementAdds},
		{"saturates at both ends", checkIncrementSaturates},
		{"decimal forms", checkIncrementForms},
		{"not a number", checkIncrementNotANumber},
		{"deadline", checkIncrementTTL},
	}
}

// increment adds delta to key and checks all that an increment says.
func (s *subject) increment(key string, delta, want int64) {
	s.e.Helper()
	result := s.do(kv.Command{Op: kv.OpIncrement, Key: key, Delta: delta})
	s.e.equal("result of an increment", result, kv.Result{Applied: true, Revision: result.Revision, Number: want})
	s.e.equal("entry", s.entry(key), kv.Entry{Key: key, Value: strconv.FormatInt(want, 10), Revision: result.Revision})
	event := s.event(result.Revision)
	s.e.same(event, kv.Event{
		Kind: kv.EventSet, Key: key, Value: strconv.FormatInt(want, 10),
		Revision: result.Revision, PreviousRevision: event.PreviousRevision,
	})
}

func checkIncrementAbsent(e *env) {
	s := e.open()
	for key, delta := range map[string]int64{"up": 5, "down": -5, "none": 0, "max": math.MaxInt64, "min": math.MinInt64} {
		s.increment(key, delta, delta)
	}
}

func checkIncrementExpired(e *env) {
	s := e.open()
	revision := s.expired("key", "100")
	s.increment("key", 1, 1)
	s.settled(revision + 2)
	e.equal("revision before it of the key", s.event(revision+2).PreviousRevision, uint64(0))
	s.expired("text", "not a number")
	s.increment("text", 7, 7)
}

func checkIncrementAdds(e *env) {
	s := e.open()
	s.increment("key", 1, 1)
	s.increment("key", 41, 42)
	s.increment("key", -50, -8)
	s.increment("key", 0, -8)
	s.increment("key", 8, 0)
	e.equal("previous revision of the last increment", s.event(5).PreviousRevision, uint64(4))
	s.set("key", "10")
	s.increment("key", 1, 11)
}

func checkIncrementSaturates(e *env) {
	s := e.open()
	const maximum, minimum = math.MaxInt64, math.MinInt64
	for _, c := range []struct{ start, delta, want int64 }{
		{maximum, 1, maximum}, {maximum, maximum, maximum}, {maximum - 1, 1, maximum}, {maximum - 1, 2, maximum},
		{1, maximum, maximum}, {minimum, -1, minimum}, {minimum, minimum, minimum}, {-1, minimum, minimum},
		{minimum + 1, -1, minimum}, {minimum + 1, -2, minimum}, {0, minimum, minimum},
		{maximum, minimum, -1}, {minimum, maximum, -1}, {maximum, -1, maximum - 1}, {minimum, 1, minimum + 1},
	} {
		s.set("key", strconv.FormatInt(c.start, 10))
		s.increment("key", c.delta, c.want)
	}
}

func checkIncrementForms(e *env) {
	s := e.open()
	for value, want := range map[string]int64{
		"+5": 6, "-5": -4, "0": 1, "-0": 1, "+0": 1, "007": 8, "-007": -6, strings.Repeat("0", 100) + "1": 2,
		"9223372036854775807": math.MaxInt64, "+9223372036854775806": math.MaxInt64, "-9223372036854775808": math.MinInt64 + 1,
	} {
		s.set("key", value)
		s.increment("key", 1, want)
	}
}

func checkIncrementNotANumber(e *env) {
	s := e.open()
	for _, value := range []string{
		"", " ", "x", "1x", " 1", "1 ", "1\n", "1.0", "1e3", "0x10", "1_000", "--1", "+-1", "+", "-", "٣", "\x00", "\xff",
		"9223372036854775808", "-9223372036854775809", "99999999999999999999999",
	} {
		result := s.do(kv.Command{Op: kv.OpSet, Key: "key", Value: value, TTL: time.Hour})
		entry := s.entry("key")
		for _, delta := range []int64{1, 0, -1} {
			s.refuses(kv.ErrNotANumber, kv.Command{Op: kv.OpIncrement, Key: "key", Delta: delta})
		}
		e.equal("entry after a failed increment", s.entry("key"), entry)
		e.equal("its deadline", entry.ExpiresAt, result.ExpiresAt)
	}
}

func checkIncrementTTL(e *env) {
	s := e.open()
	result := s.do(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1, TTL: time.Hour})
	e.equal("deadline given", result.ExpiresAt, s.event(result.Revision).Time.Add(time.Hour))
	e.equal("deadline of the entry", s.entry("key").ExpiresAt, result.ExpiresAt)
	result = s.do(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1})
	e.equal("deadline after an increment without one", result.ExpiresAt, time.Time{})
	e.equal("number", result.Number, int64(2))
}
