package kvtest

import (
	"fmt"
	"slices"
	"strings"

	"kvbus/kv"
)

func replayChecks() []check {
	return []check{
		{"after a revision", checkReplayAfter},
		{"prefix and filter", checkReplaySelect},
		{"parts of a number of events", checkReplayLimit},
		{"parts of a size", checkReplayMaxBytes},
		{"a bound below 0", checkReplayBelowZero},
		{"complete up to its revision", checkReplayComplete},
		{"older than the ring", checkReplayOld},
		{"newer than the store", checkReplayNew},
		{"all kinds of events", checkReplayKinds},
	}
}

func revisionsOf(events []kv.Event) []uint64 {
	revisions := make([]uint64, len(events))
	for i, event := range events {
		revisions[i] = event.Revision
	}
	return revisions
}

func checkReplayAfter(e *env) {
	s := filled(e)
	for after := range uint64(len(scanned)) + 1 {
		replay := s.replay(kv.ReplayQuery{After: after})
		e.equal("events", len(replay.Events), len(scanned)-int(after))
		for i, event := range replay.Events {
			revision := after + uint64(i) + 1
			key := scanned[revision-1]
			e.same(event, kv.Event{Kind: kv.EventSet, Key: key, Value: key, Revision: revision})
		}
		e.equal("complete up to", replay.Revision, uint64(len(scanned)))
		e.equal("more", replay.More, false)
	}
	empty := e.open().replay(kv.ReplayQuery{})
	if len(empty.Events) != 0 || empty.Revision != 0 || empty.More {
		e.Errorf("replay of an empty store: %+v", empty)
	}
}

// matching returns the revisions after which filled has written what matches.
func matching(after uint64, match func(key string) bool) []uint64 {
	revisions := []uint64{}
	for i, key := range scanned {
		if revision := uint64(i + 1); revision > after && match(key) {
			revisions = append(revisions, revision)
		}
	}
	return revisions
}

func checkReplaySelect(e *env) {
	s := filled(e)
	for _, after := range []uint64{0, 10, uint64(len(scanned))} {
		for _, prefix := range []string{"", "a", "user."} {
			for pattern, keys := range filters {
				want := matching(after, func(key string) bool {
					return strings.HasPrefix(key, prefix) && slices.Contains(keys, key)
				})
				replay := s.replay(kv.ReplayQuery{After: after, Prefix: prefix, Filter: e.filter(pattern)})
				if got := revisionsOf(replay.Events); !slices.Equal(got, want) {
					e.Errorf("replay after %d of prefix %q, filter %q: %v, want %v", after, prefix, pattern, got, want)
				}
				e.equal("complete up to", replay.Revision, uint64(len(scanned)))
				e.equal("more", replay.More, false)
			}
		}
	}
}

// parts collects all parts of a replay; each must pass check.
func (s *subject) parts(q kv.ReplayQuery, check func(kv.Replay)) []uint64 {
	s.e.Helper()
	var revisions []uint64
	for range len(scanned) + 2 {
		replay := s.replay(q)
		check(replay)
		revisions = append(revisions, revisionsOf(replay.Events)...)
		if n := len(replay.Events); n > 0 && replay.Events[n-1].Revision > replay.Revision {
			s.e.Errorf("replay %+v: complete up to %d, but has event %d", q, replay.Revision, replay.Events[n-1].Revision)
		}
		if !replay.More {
			return revisions
		}
		if replay.Revision <= q.After {
			s.e.Fatalf("replay %+v: there is more, but it is complete up to %d only", q, replay.Revision)
		}
		q.After = replay.Revision
	}
	s.e.Fatalf("replay %+v: the parts don't end", q)
	return nil
}

func checkReplayLimit(e *env) {
	s := filled(e)
	for _, pattern := range []string{">", "*.*", "user.*.name"} {
		want := matching(0, func(key string) bool { return slices.Contains(filters[pattern], key) })
		for limit := 1; limit <= len(want)+1; limit++ {
			got := s.parts(kv.ReplayQuery{Filter: e.filter(pattern), Limit: limit}, func(replay kv.Replay) {
				if n := len(replay.Events); n > limit || n < limit && replay.More {
					e.Errorf("replay of at most %d events has %d, more %v", limit, n, replay.More)
				}
			})
			if !slices.Equal(got, want) {
				e.Errorf("parts of %d events of %q: %v, want %v", limit, pattern, got, want)
			}
		}
	}
}

func checkReplayMaxBytes(e *env) {
	s := filled(e)
	large := s.set("m.large", strings.Repeat("v", 1000))
	want := append(matching(0, func(string) bool { return true }), large)
	size := func(event kv.Event) int { return len(event.Key) + len(event.Value) }
	for _, bound := range []int{1, 2, 5, 10, 24, 50, 500, 10_000} {
		got := s.parts(kv.ReplayQuery{MaxBytes: bound}, func(replay kv.Replay) {
			sum := 0
			for _, event := range replay.Events {
				sum += size(event)
			}
			if len(replay.Events) == 0 || len(replay.Events) > 1 && sum > bound {
				e.Errorf("replay of at most %d bytes has %d events of %d", bound, len(replay.Events), sum)
			}
			if !replay.More {
				return
			}
			if next := size(s.event(replay.Revision + 1)); sum+next <= bound {
				e.Errorf("replay of at most %d bytes has %d, and the next event has %d", bound, sum, next)
			}
		})
		if !slices.Equal(got, want) {
			e.Errorf("parts of %d bytes: %v, want %v", bound, got, want)
		}
	}
}

func checkReplayBelowZero(e *env) {
	s := filled(e)
	for _, q := range []kv.ReplayQuery{{Limit: -1}, {MaxBytes: -1}} {
		_, err := s.Store().Replay(s.ctx, q)
		s.wantErr(fmt.Sprintf("replay %+v", q), err, kv.ErrInvalidArgument)
	}
}

// checkReplayComplete asks for what did not happen: the answer says up to where
// one needn't look again.
func checkReplayComplete(e *env) {
	s := filled(e)
	replay := s.replay(kv.ReplayQuery{Prefix: "nothing", Limit: 1})
	if len(replay.Events) != 0 || replay.More || replay.Revision != uint64(len(scanned)) {
		e.Errorf("replay of nothing: %+v", replay)
	}
	replay = s.replay(kv.ReplayQuery{Prefix: "user", Limit: 2})
	e.equal("more", replay.More, true)
	before := slices.Index(scanned, "user.42.name") + 2
	if int(replay.Revision) < before || int(replay.Revision) > before {
		e.Errorf("complete up to %d, want %d", replay.Revision, before)
	}
}

func checkReplayOld(e *env) {
	const ring, writes = 16, 50
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: ring})
	for i := range writes {
		s.set("key", fmt.Sprint(i))
		oldest := max(1, i+1-ring+1)
		e.equal("oldest revision held", s.info().OldestRevision, uint64(oldest))
	}
	for after := range uint64(writes) + 1 {
		replay, err := s.Store().Replay(s.ctx, kv.ReplayQuery{After: after})
		if after < writes-ring {
			s.wantErr(fmt.Sprintf("replay after %d of %d with a ring of %d", after, writes, ring), err, kv.ErrCompacted)
		} else if err != nil || len(replay.Events) != int(writes-after) {
			e.Errorf("replay after %d of %d with a ring of %d: %d events, %v", after, writes, ring, len(replay.Events), err)
		}
	}
}

func checkReplayNew(e *env) {
	s := e.open()
	_, err := s.Store().Replay(s.ctx, kv.ReplayQuery{After: 1})
	s.wantErr("replay after 1 of an empty store", err, kv.ErrCompacted)
	revision := s.set("key", "")
	_, err = s.Store().Replay(s.ctx, kv.ReplayQuery{After: revision + 1})
	s.wantErr("replay after a revision to come", err, kv.ErrCompacted)
	s.replay(kv.ReplayQuery{After: revision})
}

func checkReplayKinds(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	s.set("key", "1")
	s.do(kv.Command{Op: kv.OpTouch, Key: "key"})
	s.do(kv.Command{Op: kv.OpIncrement, Key: "key", Delta: 1})
	s.do(kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.IfValue("2"), Value: "three"})
	s.remove("key")
	s.expired("key", "four")
	s.settled(7)
	want := []kv.Event{
		{Kind: kv.EventSet, Value: "1"},
		{Kind: kv.EventTouch, PreviousRevision: 1},
		{Kind: kv.EventSet, Value: "2", PreviousRevision: 2},
		{Kind: kv.EventSet, Value: "three", PreviousRevision: 3},
		{Kind: kv.EventDelete, PreviousRevision: 4},
		{Kind: kv.EventSet, Value: "four"},
		{Kind: kv.EventExpire, PreviousRevision: 6},
	}
	replayed, watched := s.replay(kv.ReplayQuery{}).Events, w.take(len(want))
	for i := range want {
		want[i].Key, want[i].Revision = "key", uint64(i+1)
		want[i].ExpiresAt = replayed[i].ExpiresAt
		e.same(replayed[i], want[i])
		e.same(watched[i], replayed[i])
		e.equal("time of an event, watched and replayed", watched[i].Time, replayed[i].Time)
		e.equal("has a deadline", !want[i].ExpiresAt.IsZero(), i == 5)
	}
}
