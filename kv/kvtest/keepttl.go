package kvtest

import (
	"time"

	"kvbus/kv"
)

func keepTTLChecks() []check {
	return []check{
		{"a live key keeps its deadline", checkKeepDeadline},
		{"a live key keeps its lack of one", checkKeepNone},
		{"the life counts where the key is created", checkKeepCreates},
		{"fixed window", checkFixedWindow},
	}
}

// keep returns a write that keeps the deadline, onto a key that holds "1".
func keep(op kv.Op, ttl time.Duration) kv.Command {
	cmd := write(op, "key", "2")
	cmd.TTL, cmd.KeepTTL = ttl, true
	if op == kv.OpCompareAndSwap {
		cmd.Expect = kv.IfValue("1")
	}
	return cmd
}

var keepers = []kv.Op{kv.OpSet, kv.OpCompareAndSwap, kv.OpIncrement}

func checkKeepDeadline(e *env) {
	s := e.open()
	for _, op := range keepers {
		for _, ttl := range []time.Duration{0, time.Minute, 2 * time.Hour} {
			before := s.do(kv.Command{Op: kv.OpSet, Key: "key", Value: "1", TTL: time.Hour})
			result := s.do(keep(op, ttl))
			e.equal("deadline kept by "+op.String(), result.ExpiresAt, before.ExpiresAt)
			e.equal("deadline in the entry", s.entry("key").ExpiresAt, before.ExpiresAt)
			e.equal("deadline in the event", s.event(result.Revision).ExpiresAt, before.ExpiresAt)
			s.holds("key", "2")
		}
	}
}

func checkKeepNone(e *env) {
	s := e.open()
	for _, op := range keepers {
		s.set("key", "1")
		result := s.do(keep(op, time.Hour))
		e.equal("deadline of a key that had none, by "+op.String(), result.ExpiresAt, time.Time{})
		e.equal("deadline in the entry", s.entry("key").ExpiresAt, time.Time{})
		s.holds("key", "2")
	}
}

func checkKeepCreates(e *env) {
	s := e.open()
	for _, op := range keepers {
		for _, expired := range []bool{false, true} {
			s.remove("key")
			if expired {
				s.expired("key", "1")
			}
			cmd := keep(op, time.Hour)
			if op == kv.OpCompareAndSwap {
				cmd.Expect = kv.IfAbsent()
			}
			result := s.do(cmd)
			e.equal("deadline of a created key, by "+op.String(), result.ExpiresAt, s.event(result.Revision).Time.Add(time.Hour))
			e.equal("deadline in the entry", s.entry("key").ExpiresAt, result.ExpiresAt)
		}
	}
}

// checkFixedWindow is a rate limiter: the first increment opens the window, the
// others count within it.
func checkFixedWindow(e *env) {
	s := e.open()
	hit := kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1, TTL: time.Hour, KeepTTL: true}
	first := s.do(hit)
	for want := int64(2); want < 6; want++ {
		result := s.do(hit)
		e.equal("hits", result.Number, want)
		e.equal("end of the window", result.ExpiresAt, first.ExpiresAt)
	}
}
