package kvtest

import (
	"errors"
	"fmt"
	"strings"

	"kvbus/kv"
)

func limitChecks() []check {
	return []check{
		{"are told", checkLimitsTold},
		{"number of keys", checkMaxKeys},
		{"expired keys free their room", checkMaxKeysExpired},
		{"removed keys free their room", checkMaxKeysRemoved},
		{"sum of bytes", checkMaxBytes},
		{"sum of bytes and growth", checkMaxBytesGrowth},
		{"size of a value", checkMaxValueSize},
		{"size of a number", checkMaxValueSizeNumber},
		{"order of checks", checkLimitOrder},
		{"change while it runs", checkSetLimits},
		{"what is over a lowered limit stays", checkLoweredLimits},
		{"malformed", checkBadLimits},
	}
}

func (e *env) limited(limits kv.Limits) *subject {
	e.Helper()
	return e.openWith(Options{Limits: limits})
}

func checkLimitsTold(e *env) {
	for _, limits := range []kv.Limits{kv.DefaultLimits(), {MaxKeys: 3}, {MaxValueSize: 17}, {MaxKeys: 1, MaxValueSize: 2, MaxBytes: 3}} {
		s := e.limited(limits)
		got, err := s.Limits(s.ctx)
		if err != nil || got != limits {
			e.Errorf("limits: %+v, %v; want %+v", got, err, limits)
		}
		info := s.info()
		e.equal("limits", info.Limits, limits)
		e.equal("keys of an empty store", info.Keys, int64(0))
		e.equal("bytes of an empty store", info.Bytes, int64(0))
		if info.Store == "" {
			e.Errorf("the store does not say of what kind it is")
		}
	}
}

// additions are the commands that add a key.
func additions(key string) []kv.Command {
	return []kv.Command{write(kv.OpSet, key, "2"), write(kv.OpCompareAndSwap, key, "2"), write(kv.OpIncrement, key, "")}
}

func checkMaxKeys(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 3})
	for _, key := range []string{"a", "b", "c"} {
		s.set(key, "1")
	}
	for _, cmd := range additions("d") {
		s.refuses(kv.ErrQuotaExceeded, cmd)
	}
	s.lacks("d")
	s.set("a", "2")
	s.do(kv.Command{Op: kv.OpIncrement, Key: "b", Delta: 1})
	s.do(kv.Command{Op: kv.OpCompareAndSwap, Key: "c", Expect: kv.IfValue("1"), Value: "2"})
	s.do(kv.Command{Op: kv.OpTouch, Key: "a"})
	e.equal("swap that does not hold, on a full store",
		s.do(kv.Command{Op: kv.OpCompareAndSwap, Key: "d", Expect: kv.IfValue("1")}).Applied, false)
	for _, key := range []string{"a", "b", "c"} {
		s.holds(key, "2")
	}
	e.equal("keys held", s.info().Keys, int64(3))
}

// checkMaxKeysExpired fills the store with keys that expire, again and again:
// the write that needs their room may come before anybody swept them out.
func checkMaxKeysExpired(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 2})
	for range 10 {
		s.expired("a", "")
		s.expired("b", "")
		for _, cmd := range additions("c") {
			s.do(cmd)
			s.remove("c")
		}
	}
}

func checkMaxKeysRemoved(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 2, MaxBytes: 20})
	for i := range 20 {
		s.set(fmt.Sprintf("a%02d", i), "1234567")
		s.set(fmt.Sprintf("b%02d", i), "1234567")
		s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "c"})
		if i%2 == 0 {
			s.do(kv.Command{Op: kv.OpClear})
			continue
		}
		s.remove(fmt.Sprintf("a%02d", i))
		s.remove(fmt.Sprintf("b%02d", i))
	}
	e.equal("bytes held at the end", s.info().Bytes, int64(0))
}

func checkMaxBytes(e *env) {
	s := e.limited(kv.Limits{MaxBytes: 20})
	s.set("aaaa", "123456")
	e.equal("bytes held", s.info().Bytes, int64(10))
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "bbbb", Value: "1234567"})
	s.set("bbbb", "123456")
	e.equal("bytes held", s.info().Bytes, int64(20))
	for _, cmd := range additions("c") {
		s.refuses(kv.ErrQuotaExceeded, cmd)
	}
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "c"})
	s.set("aaaa", "654321")
	s.expired("bbbb", "123456")
	s.set("cccc", "123456")
	e.equal("bytes held", s.info().Bytes, int64(20))
}

func checkMaxBytesGrowth(e *env) {
	s := e.limited(kv.Limits{MaxBytes: 20})
	s.set("key", "1")
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "key", Value: strings.Repeat("v", 18)})
	s.holds("key", "1")
	s.set("key", strings.Repeat("v", 17))
	s.set("key", strings.Repeat("w", 17))
	s.set("key", "99")
	s.set("other", strings.Repeat("v", 10))
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1})
	s.holds("key", "99")
	s.do(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: -1})
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.IfValue("98"), Value: "123"})
}

func checkMaxValueSize(e *env) {
	for _, size := range []int{1, 100, 1 << 16} {
		s := e.limited(kv.Limits{MaxValueSize: int64(size)})
		fits, large := strings.Repeat("v", size), strings.Repeat("v", size+1)
		s.refuses(kv.ErrValueTooLarge, kv.Command{Op: kv.OpSet, Key: "key", Value: large})
		s.refuses(kv.ErrValueTooLarge, kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.IfAbsent(), Value: large})
		s.lacks("key")
		s.set("key", fits)
		s.holds("key", fits)
		s.refuses(kv.ErrValueTooLarge, kv.Command{Op: kv.OpSet, Key: "key", Value: large})
		s.holds("key", fits)
	}
}

func checkMaxValueSizeNumber(e *env) {
	s := e.limited(kv.Limits{MaxValueSize: 2})
	s.set("key", "99")
	s.refuses(kv.ErrValueTooLarge, kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1})
	s.holds("key", "99")
	s.refuses(kv.ErrValueTooLarge, kv.Command{Op: kv.OpIncrement, Key: "absent", Delta: 100})
	s.lacks("absent")
	s.do(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: -108})
	s.holds("key", "-9")
}

// checkLimitOrder has commands fail for two reasons; the first check in line
// tells.
func checkLimitOrder(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 1, MaxValueSize: 4, MaxBytes: 8})
	revision := s.set("key", "text")
	large := strings.Repeat("v", 5)
	result := s.refuses(kv.ErrConflict, kv.Command{Op: kv.OpSet, Key: "key", Value: large, Expect: kv.IfRevision(revision + 1)})
	e.equal("revision given with a conflict", result.Revision, revision)
	s.unchanged("swap", func() {
		result := s.do(kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Value: large, Expect: kv.IfAbsent()})
		e.equal("swap of a value too large that does not hold", result, kv.Result{Revision: revision})
	})
	s.refuses(kv.ErrNotANumber, kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1_000_000})
	s.refuses(kv.ErrValueTooLarge, kv.Command{Op: kv.OpSet, Key: "other", Value: large})
	s.refuses(kv.ErrInvalidKey, kv.Command{Op: kv.OpSet, Key: "other key", Value: large, TTL: -1})
}

func checkSetLimits(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 1, MaxValueSize: 10, MaxBytes: 100})
	if e.NoSetLimits {
		s.unchanged("set-limits", func() {
			err := s.SetLimits(s.ctx, kv.Limits{MaxKeys: 2})
			s.wantErr("set-limits", err, errors.ErrUnsupported)
		})
		return
	}
	s.set("a", "1")
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "b"})
	for _, limits := range []kv.Limits{{MaxKeys: 2, MaxValueSize: 20, MaxBytes: 30}, {}, {MaxKeys: 3}} {
		s.unchanged("set-limits", func() {
			if err := s.SetLimits(s.ctx, limits); err != nil {
				e.Fatal(err)
			}
		})
		e.equal("limits in force", s.info().Limits, limits)
	}
	s.set("b", strings.Repeat("v", 1000))
	s.set("c", "")
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "d"})
}

func checkLoweredLimits(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 10})
	if e.NoSetLimits {
		return
	}
	for _, key := range []string{"a", "b", "c"} {
		s.set(key, "12345")
	}
	s.do(kv.Command{Op: kv.OpSetLimits, Limits: kv.Limits{MaxKeys: 1, MaxBytes: 5, MaxValueSize: 3}})
	e.equal("keys held", s.info().Keys, int64(3))
	s.holds("c", "12345")
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "d"})
	s.refuses(kv.ErrValueTooLarge, kv.Command{Op: kv.OpSet, Key: "a", Value: "1234"})
	s.set("a", "123") // less than it was
	s.set("a", "321") // as much as it was
	s.do(kv.Command{Op: kv.OpTouch, Key: "b"})
	s.set("a", "1")
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "a", Value: "12"})
	s.remove("b")
	s.remove("c")
	s.set("a", "123")
	s.refuses(kv.ErrQuotaExceeded, kv.Command{Op: kv.OpSet, Key: "d"})
}

func checkBadLimits(e *env) {
	s := e.limited(kv.Limits{MaxKeys: 5})
	if e.NoSetLimits {
		return
	}
	for _, limits := range []kv.Limits{{MaxKeys: -1}, {MaxValueSize: -1}, {MaxBytes: -1}} {
		s.refuses(kv.ErrInvalidArgument, kv.Command{Op: kv.OpSetLimits, Limits: limits})
	}
	e.equal("limits in force", s.info().Limits, kv.Limits{MaxKeys: 5})
}
