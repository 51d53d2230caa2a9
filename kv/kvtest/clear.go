package kvtest

import (
	"slices"
	"strings"

	"kvbus/kv"
)

func clearChecks() []check {
	return []check{
		{"all", func(e *env) { checkClear(e, "") }},
		{"a raw prefix", func(e *env) { checkClear(e, "user") }},
		{"a prefix of tokens", func(e *env) { checkClear(e, "a.") }},
		{"a prefix of nothing", func(e *env) { checkClear(e, "nothing") }},
		{"expired keys don't count", checkClearExpired},
	}
}

func checkClear(e *env, prefix string) {
	s := filled(e)
	w := s.watch(kv.WatchOptions{})
	var doomed, left []string
	for _, key := range slices.Sorted(slices.Values(scanned)) {
		if strings.HasPrefix(key, prefix) {
			doomed = append(doomed, key)
		} else {
			left = append(left, key)
		}
	}
	before := s.revision()
	n, err := s.Clear(s.ctx, prefix)
	if err != nil || n != int64(len(doomed)) {
		e.Errorf("clear: %d, %v; want %d", n, err, len(doomed))
	}
	e.equal("revision", s.revision(), before+uint64(len(doomed)))
	var removed []string
	for i, event := range w.take(len(doomed)) {
		removed = append(removed, event.Key)
		e.same(event, kv.Event{
			Kind: kv.EventDelete, Key: event.Key, Revision: before + uint64(i) + 1,
			PreviousRevision: uint64(slices.Index(scanned, event.Key) + 1),
		})
	}
	slices.Sort(removed)
	if !slices.Equal(removed, doomed) {
		e.Errorf("keys in the events: %q, want %q", removed, doomed)
	}
	if got := keysOf(s.scan(kv.Query{}).Entries); !slices.Equal(got, left) {
		e.Errorf("keys left: %q, want %q", got, left)
	}
	e.equal("keys held", s.info().Keys, int64(len(left)))
	s.unchanged("clear of what is cleared", func() {
		e.equal("keys cleared again", s.do(kv.Command{Op: kv.OpClear, Key: prefix}).Number, int64(0))
	})
}

func checkClearExpired(e *env) {
	s := e.open()
	s.set("a", "")
	s.expired("b", "")
	e.equal("keys cleared", s.do(kv.Command{Op: kv.OpClear}).Number, int64(1))
	s.settled(4)
	kinds := map[kv.EventKind]int{}
	for _, event := range s.replay(kv.ReplayQuery{}).Events {
		kinds[event.Kind]++
	}
	e.equal("expiries", kinds[kv.EventExpire], 1)
	e.equal("deletes", kinds[kv.EventDelete], 1)
}
