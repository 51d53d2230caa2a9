package kvtest

import (
	"errors"
	"fmt"
	"math"
	"time"

	"kvbus/kv"
)

// brief is a life that ends during a check, but not before the next command.
const brief = 30 * time.Millisecond

func ttlChecks() []check {
	return []check{
		{"the deadline is the time of the event and the life", checkDeadline},
		{"far deadlines are as the year 2262", checkFarDeadline},
		{"a life is at least 1ns", checkTTLRange},
		{"a plain write clears the deadline", checkPlainWriteClears},
		{"expiry needs no request", checkExpiryUnasked},
		{"expiry is on time", checkExpiryOnTime},
		{"a read never shows what is past its deadline", checkReadsHonourDeadlines},
		{"expired keys don't count", checkExpiredDontCount},
		{"entries expire in the order of their deadlines", checkExpiryOrder},
		{"a later deadline counts", checkLaterDeadline},
		{"an earlier deadline counts", checkEarlierDeadline},
		{"an expired key can be written again", checkExpiredAgain},
		{"time left", checkTimeLeft},
		{"sweep", checkSweep},
	}
}

func checkDeadline(e *env) {
	s := e.open()
	for _, ttl := range []time.Duration{time.Hour, time.Hour + 1, time.Hour + 999_999_999, 10 * 365 * 24 * time.Hour} {
		for _, op := range []kv.Op{kv.OpSet, kv.OpCompareAndSwap, kv.OpIncrement, kv.OpTouch} {
			s.remove("key")
			if op == kv.OpTouch {
				s.set("key", "")
			}
			cmd := write(op, "key", "value")
			cmd.TTL = ttl
			began := time.Now()
			result := s.do(cmd)
			event := s.event(result.Revision)
			if left := result.ExpiresAt.Sub(event.Time); left != ttl {
				e.Errorf("%v with a life of %v: the deadline is %v after the event", op, ttl, left)
			}
			if early := began.Sub(event.Time); early > time.Second {
				e.Errorf("%v: the event is %v older than the command", op, early)
			}
			if result.ExpiresAt.Location() != time.UTC {
				e.Errorf("%v: the deadline is in %v, want UTC", op, result.ExpiresAt.Location())
			}
			e.equal("deadline in the event", event.ExpiresAt, result.ExpiresAt)
			e.equal("deadline in the entry", s.entry("key").ExpiresAt, result.ExpiresAt)
			e.equal("deadline in a page", s.scan(kv.Query{}).Entries[0].ExpiresAt, result.ExpiresAt)
			e.equal("deadline in a page of keys", s.scan(kv.Query{KeysOnly: true}).Entries[0].ExpiresAt, result.ExpiresAt)
		}
	}
}

func checkFarDeadline(e *env) {
	s := e.open()
	end := time.Unix(0, math.MaxInt64).UTC()
	result := s.do(kv.Command{Op: kv.OpSet, Key: "key", TTL: math.MaxInt64})
	e.equal("deadline", result.ExpiresAt, end)
	e.equal("deadline of the entry", s.entry("key").ExpiresAt, end)
	s.set("key", "")
	e.equal("deadline after a touch", s.do(kv.Command{Op: kv.OpTouch, Key: "key", TTL: math.MaxInt64 - 1}).ExpiresAt, end)
}

func checkTTLRange(e *env) {
	s := e.open()
	s.set("key", "1")
	for _, op := range []kv.Op{kv.OpSet, kv.OpCompareAndSwap, kv.OpIncrement, kv.OpTouch} {
		for _, ttl := range []time.Duration{-1, -time.Hour, math.MinInt64} {
			cmd := write(op, "key", "2")
			cmd.TTL = ttl
			s.refuses(kv.ErrInvalidArgument, cmd)
		}
	}
	s.unchanged("a set with a life of 0", func() {
		_, err := s.Set(s.ctx, "key", "2", kv.WithTTL(0))
		s.wantErr("a set with a life of 0", err, kv.ErrInvalidArgument)
	})
	s.holds("key", "1")
}

// checkPlainWriteClears has a second key expire later than the first one was
// to: then the first one must still be there.
func checkPlainWriteClears(e *env) {
	for _, op := range []kv.Op{kv.OpSet, kv.OpCompareAndSwap, kv.OpIncrement} {
		s := e.open()
		w := s.watch(kv.WatchOptions{Prefix: "fence"})
		s.set("key", "1", kv.WithTTL(brief))
		cmd := write(op, "key", "1")
		if op == kv.OpCompareAndSwap {
			cmd.Expect = kv.IfValue("1")
		}
		result := s.do(cmd)
		if op == kv.OpCompareAndSwap && !result.Applied {
			continue // it expired before; the machine is that slow
		}
		e.equal("deadline after a plain "+op.String(), result.ExpiresAt, time.Time{})
		e.equal("deadline of the entry", s.entry("key").ExpiresAt, time.Time{})
		e.equal("deadline in the event", s.event(result.Revision).ExpiresAt, time.Time{})
		s.set("fence", "", kv.WithTTL(brief+1))
		w.next()
		e.equal("fence", w.next().Kind, kv.EventExpire)
		e.equal("revision of the key after its old deadline", s.entry("key").Revision, result.Revision)
	}
}

func checkExpiryUnasked(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	result := s.do(kv.Command{Op: kv.OpSet, Key: "key", Value: "value", TTL: brief})
	w.next()
	event := w.next()
	e.same(event, kv.Event{Kind: kv.EventExpire, Key: "key", Revision: result.Revision + 1, PreviousRevision: result.Revision})
	if event.Time.Before(result.ExpiresAt) {
		e.Errorf("the event is of %v, before the deadline, %v", event.Time, result.ExpiresAt)
	}
	s.lacks("key")
	e.same(s.event(event.Revision), event)
}

// checkExpiryOnTime takes the best of some attempts: a store that is late by
// its design is late each time, a machine that is busy only now and then.
func checkExpiryOnTime(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	best := time.Duration(math.MaxInt64)
	for attempt := 0; attempt < 20 && best > e.ExpiryBound; attempt++ {
		ttl := brief + time.Duration(attempt)*time.Millisecond
		result := s.do(kv.Command{Op: kv.OpSet, Key: "key", TTL: ttl})
		w.next()
		late := w.next().Time.Sub(result.ExpiresAt)
		if late < 0 {
			e.Fatalf("an entry expired %v before its deadline", -late)
		}
		best = min(best, late)
	}
	if best > e.ExpiryBound {
		e.Errorf("expiry came %v after the deadline at best; the bound is %v", best, e.ExpiryBound)
	}
}

// checkReadsHonourDeadlines reads around deadlines. The clock is read before
// the store does, so an entry it shows must be live by then.
func checkReadsHonourDeadlines(e *env) {
	s := e.open()
	for i := range 20 {
		result := s.do(kv.Command{Op: kv.OpSet, Key: "key", TTL: 1 + time.Duration(i)*200*time.Microsecond})
		deadline := result.ExpiresAt
		e.eventually("the key expires", func() bool {
			began := time.Now()
			entry, err := s.Get(s.ctx, "key")
			if err == nil && !deadline.After(began) {
				e.Errorf("get at %v showed %+v", began, entry)
			}
			gone := errors.Is(err, kv.ErrNotFound)
			began = time.Now()
			if entries := s.scan(kv.Query{}).Entries; len(entries) > 0 && !deadline.After(began) {
				e.Errorf("scan at %v showed %+v", began, entries)
			}
			return gone
		})
	}
}

func checkExpiredDontCount(e *env) {
	s := e.open()
	s.set("stays", "value")
	for i := range 10 {
		s.expired(fmt.Sprintf("key%d", i), "value")
	}
	info := s.info()
	e.equal("keys held", info.Keys, int64(1))
	e.equal("bytes held", info.Bytes, int64(len("stays"+"value")))
	held, err := s.Len(s.ctx)
	if err != nil || held != 1 {
		e.Errorf("len: %d, %v; want 1", held, err)
	}
}

func checkExpiryOrder(e *env) {
	s := e.open()
	filter, err := kv.ParseFilter("*")
	if err != nil {
		e.Fatal(err)
	}
	w := s.watch(kv.WatchOptions{Filter: filter})
	deadlines := map[string]time.Time{}
	const n = 30
	for i := range n {
		key := fmt.Sprintf("key%d", i)
		ttl := brief + time.Duration(i*7%n)*time.Millisecond
		deadlines[key] = s.do(kv.Command{Op: kv.OpSet, Key: key, TTL: ttl}).ExpiresAt
	}
	var last time.Time
	for expired := 0; expired < n; {
		event := w.next()
		if event.Kind != kv.EventExpire {
			continue
		}
		expired++
		deadline := deadlines[event.Key]
		if event.Time.Before(deadline) {
			e.Errorf("key %q expired at %v, before its deadline, %v", event.Key, event.Time, deadline)
		}
		if deadline.Before(last) {
			e.Errorf("key %q, due at %v, expired after one that was due at %v", event.Key, deadline, last)
		}
		last = deadline
	}
}

func checkLaterDeadline(e *env) {
	for _, op := range []kv.Op{kv.OpSet, kv.OpTouch} {
		s := e.open()
		w := s.watch(kv.WatchOptions{Prefix: "fence"})
		s.set("key", "one", kv.WithTTL(brief))
		cmd := write(op, "key", "one")
		cmd.TTL = time.Hour
		result := s.do(cmd)
		if !result.Applied {
			continue // it expired before; the machine is that slow
		}
		s.set("fence", "", kv.WithTTL(brief+1))
		w.next()
		e.equal("fence", w.next().Kind, kv.EventExpire)
		e.equal("entry", s.entry("key"), kv.Entry{Key: "key", Value: "one", Revision: result.Revision, ExpiresAt: result.ExpiresAt})
	}
}

func checkEarlierDeadline(e *env) {
	for _, op := range []kv.Op{kv.OpSet, kv.OpTouch} {
		s := e.open()
		w := s.watch(kv.WatchOptions{})
		s.set("key", "one", kv.WithTTL(time.Hour))
		cmd := write(op, "key", "one")
		cmd.TTL = brief
		s.do(cmd)
		w.take(2)
		e.equal("kind of the event after the earlier deadline", w.next().Kind, kv.EventExpire)
		s.lacks("key")
	}
}

func checkExpiredAgain(e *env) {
	s := e.open()
	revision := s.expired("key", "one")
	s.set("key", "two")
	s.settled(revision + 2)
	expire, set := s.event(revision+1), s.event(revision+2)
	e.same(expire, kv.Event{Kind: kv.EventExpire, Key: "key", Revision: revision + 1, PreviousRevision: revision})
	e.same(set, kv.Event{Kind: kv.EventSet, Key: "key", Value: "two", Revision: revision + 2})
	s.holds("key", "two")
}

func checkTimeLeft(e *env) {
	s := e.open()
	s.set("never", "")
	s.set("hour", "", kv.WithTTL(time.Hour))
	if left, never, err := s.TTL(s.ctx, "never"); err != nil || !never || left != 0 {
		e.Errorf("time left without a deadline: %v, %v, %v", left, never, err)
	}
	left, never, err := s.TTL(s.ctx, "hour")
	if err != nil || never || left > time.Hour || left < time.Hour-e.Patience {
		e.Errorf("time left of an hour: %v, %v, %v", left, never, err)
	}
	_, _, err = s.TTL(s.ctx, "absent")
	s.wantErr("time left of an absent key", err, kv.ErrNotFound)
}

func checkSweep(e *env) {
	s := e.open()
	if e.NoSweep {
		_, err := s.Sweep(s.ctx)
		s.wantErr("sweep", err, errors.ErrUnsupported)
		return
	}
	revision := s.set("stays", "")
	s.expired("a", "")
	s.expired("b", "")
	n, err := s.Sweep(s.ctx)
	if err != nil || n < 0 || n > 2 {
		e.Errorf("sweep: %d, %v; want 0 to 2, for the store may have come before", n, err)
	}
	s.settled(revision + 4)
	e.eventually("a sweep is before the store, and counts", func() bool {
		s.set("again", "", kv.WithTTL(1))
		n, err := s.Sweep(s.ctx)
		if err != nil || n < 0 || n > 1 {
			e.Fatalf("sweep after a key: %d, %v", n, err)
		}
		return n == 1
	})
	s.unchanged("a sweep of nothing", func() {
		if n, err := s.Sweep(s.ctx); err != nil || n != 0 {
			e.Errorf("sweep of nothing: %d, %v", n, err)
		}
	})
}
