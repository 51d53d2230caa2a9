package kvtest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"kvbus/kv"
)

func watchChecks() []check {
	return []check{
		{"from now", checkWatchNow},
		{"the start is fixed by the call", checkWatchStart},
		{"after a revision", checkWatchAfter},
		{"after a revision no longer held", checkWatchCompacted},
		{"prefix and filter", checkWatchSelect},
		{"expiry", checkWatchExpiry},
		{"only mutations", checkWatchOnlyMutations},
		{"many watchers", checkWatchMany},
		{"while many write", checkWatchBusy},
		{"a slow one is told what it missed", checkWatchLag},
		{"a slow one with a filter is told too", checkWatchLagFiltered},
		{"never holds up a store", checkWatchHoldsNothingUp},
		{"ends with its context", checkWatchContext},
		{"ends with the store", checkWatchClose},
		{"can be left", checkWatchLeft},
	}
}

func checkWatchNow(e *env) {
	s := e.open()
	s.set("before", "")
	w := s.watch(kv.WatchOptions{})
	revision := s.set("key", "value")
	e.same(w.next(), kv.Event{Kind: kv.EventSet, Key: "key", Value: "value", Revision: revision})
	s.set("key", "next")
	e.same(w.next(), kv.Event{Kind: kv.EventSet, Key: "key", Value: "next", Revision: revision + 1, PreviousRevision: revision})
}

// checkWatchStart starts to iterate only after the writes.
func checkWatchStart(e *env) {
	s := e.open()
	s.set("before", "")
	ctx, cancel := context.WithTimeout(s.ctx, e.Patience)
	defer cancel()
	seq := s.Watch(ctx, kv.WatchOptions{})
	first := s.set("one", "")
	s.set("two", "")
	last := first - 1
	for event, err := range seq {
		if err != nil {
			e.Fatalf("watch: %v", err)
		}
		if e.Redelivers && event.Revision <= last && event.Revision >= first {
			continue
		}
		e.equal("revision", event.Revision, last+1)
		if last = event.Revision; last >= first+1 {
			return
		}
	}
	e.Errorf("watch: it ended after revision %d", last)
}

func checkWatchAfter(e *env) {
	s := filled(e)
	n := uint64(len(scanned))
	for _, after := range []uint64{0, 1, n / 2, n - 1, n} {
		last := s.revision()
		w := s.watch(kv.WatchOptions{Start: kv.After(after)})
		for want := after + 1; want <= last; want++ {
			event := w.next()
			e.equal("revision", event.Revision, want)
			if want <= n {
				key := scanned[want-1]
				e.same(event, kv.Event{Kind: kv.EventSet, Key: key, Value: key, Revision: want})
			}
		}
		e.equal("revision of what came then", s.set("fence", ""), w.next().Revision)
	}
}

func checkWatchCompacted(e *env) {
	const ring, writes = 8, 30
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: ring})
	for range writes {
		s.set("key", "")
	}
	for _, after := range []uint64{0, 1, writes - ring - 1, writes + 1, writes + 100} {
		s.watch(kv.WatchOptions{Start: kv.After(after)}).ends(kv.ErrCompacted)
	}
	w := s.watch(kv.WatchOptions{Start: kv.After(writes - ring)})
	for i, event := range w.take(ring) {
		e.equal("revision", event.Revision, uint64(writes-ring+1+i))
	}
}

func checkWatchSelect(e *env) {
	s := e.open()
	type selection struct {
		w    *watcher
		want []string
		opts kv.WatchOptions
	}
	var selections []selection
	for _, prefix := range []string{"", "a", "user."} {
		for pattern, keys := range filters {
			opts := kv.WatchOptions{Prefix: prefix, Filter: e.filter(pattern)}
			var want []string
			for _, key := range scanned {
				if strings.HasPrefix(key, prefix) && slices.Contains(keys, key) {
					want = append(want, key)
				}
			}
			selections = append(selections, selection{s.watch(opts), want, opts})
		}
	}
	for _, key := range scanned {
		s.set(key, key)
	}
	last := s.revision()
	for _, sel := range selections {
		for _, want := range sel.want {
			if got := sel.w.next(); got.Key != want {
				e.Fatalf("watch of prefix %q, filter %v: %q, want %q", sel.opts.Prefix, sel.opts.Filter, got.Key, want)
			}
		}
	}
	// Once more: what comes next is of the second round, so nothing came that
	// was not selected.
	for _, key := range scanned {
		s.remove(key)
	}
	for _, sel := range selections {
		for i, event := range sel.w.take(len(sel.want)) {
			if event.Key != sel.want[i] || event.Kind != kv.EventDelete || event.Revision <= last {
				e.Fatalf("watch of prefix %q, filter %v: %+v, want the removal of %q", sel.opts.Prefix, sel.opts.Filter, event, sel.want[i])
			}
		}
	}
}

func checkWatchExpiry(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{Filter: e.filter("a.*")})
	s.expired("a.b", "1")
	s.expired("b.b", "1")
	s.expired("a.c", "1")
	for i, want := range []struct {
		kind kv.EventKind
		key  string
	}{{kv.EventSet, "a.b"}, {kv.EventExpire, "a.b"}, {kv.EventSet, "a.c"}, {kv.EventExpire, "a.c"}} {
		event := w.next()
		if event.Kind != want.kind || event.Key != want.key {
			e.Fatalf("event %d: %+v, want %v of %q", i, event, want.kind, want.key)
		}
		if event.Kind == kv.EventExpire && (event.Value != "" || !event.ExpiresAt.IsZero()) {
			e.Errorf("an expiry has no value and no deadline: %+v", event)
		}
	}
}

func checkWatchOnlyMutations(e *env) {
	s := e.openWith(Options{Limits: kv.Limits{MaxKeys: 2, MaxValueSize: 10}})
	w := s.watch(kv.WatchOptions{})
	revision := s.set("key", "text")
	for _, cmd := range []kv.Command{
		{Op: kv.OpSet, Key: "key", Value: "much too large"}, {Op: kv.OpIncrement, Key: "key", Delta: 1},
		{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.IfAbsent()}, {Op: kv.OpDelete, Key: "other"},
		{Op: kv.OpTouch, Key: "other"}, {Op: kv.OpClear, Key: "other"}, {Op: kv.OpSet, Key: "no key"},
	} {
		_, _ = s.Store().Do(s.ctx, cmd)
	}
	s.scan(kv.Query{})
	s.entry("key")
	s.set("fence", "")
	e.equal("first event", w.next().Revision, revision)
	e.equal("key of the second event", w.next().Key, "fence")
}

func checkWatchMany(e *env) {
	s := e.open()
	var watchers []*watcher
	for range 20 {
		watchers = append(watchers, s.watch(kv.WatchOptions{}))
		s.set("key", "")
	}
	last := s.revision()
	for i, w := range watchers {
		for want := uint64(i + 1); want <= last; want++ {
			e.equal("revision", w.next().Revision, want)
		}
	}
}

// account goes through what a watch of all events yields until the revision
// last, and checks that each revision after the start is an event or is lost,
// and that no other is. It returns how many were lost.
func account(e *env, next func() (kv.Event, error, bool), after, last uint64) (lost uint64) {
	e.Helper()
	for after < last {
		event, err, ok := next()
		if !ok {
			e.Fatalf("watch: it ended after revision %d", after)
		}
		lag, lagged := errors.AsType[*kv.LagError](err)
		switch {
		case lagged:
			if lag.First != after+1 || lag.Last < lag.First || lag.Last > last {
				e.Fatalf("watch: lost %d to %d, where %d to %d are left", lag.First, lag.Last, after+1, last)
			}
			e.equal("number of lost revisions", lag.Missed(), lag.Last-lag.First+1)
			lost += lag.Missed()
			after = lag.Last
		case err != nil:
			e.Fatalf("watch: %v", err)
		case e.Redelivers && event.Revision <= after:
		case event.Revision != after+1:
			e.Fatalf("watch: revision %d after %d", event.Revision, after)
		default:
			after++
		}
	}
	return lost
}

// pull is [iter.Pull2] for a watch that ends after the suite's patience.
func (s *subject) pull(opts kv.WatchOptions) func() (kv.Event, error, bool) {
	ctx, cancel := context.WithTimeout(s.ctx, 2*s.e.Patience)
	next, stop := iter.Pull2(s.Watch(ctx, opts))
	s.e.Cleanup(func() { stop(); cancel() })
	return next
}

func checkWatchBusy(e *env) {
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: 4096})
	const writers, each = 4, 100
	next := s.pull(kv.WatchOptions{})
	s.together(writers, func(w int) error {
		for i := range each {
			if _, err := s.Set(s.ctx, fmt.Sprint("key", w), fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if lost := account(e, next, 0, writers*each); lost > 0 {
		e.Errorf("%d events lost, though all are held", lost)
	}
}

func checkWatchLag(e *env) {
	const ring, writes = 16, 400
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: ring})
	next := s.pull(kv.WatchOptions{})
	s.set("key", "")
	account(e, next, 0, 1)
	for range 2 {
		before := s.revision()
		for i := range writes {
			s.set("key", fmt.Sprint(i))
		}
		lost := account(e, next, before, before+writes)
		if lost == 0 && !e.Buffers {
			e.Errorf("nothing was lost of %d events with a ring of %d", writes, ring)
		}
		if lost > writes-ring {
			e.Errorf("%d of %d events are lost, though %d are held", lost, writes, ring)
		}
	}
}

// checkWatchLagFiltered looks for what a watch of some keys can know: that the
// revisions it lost are as many as it says, whatever their keys.
func checkWatchLagFiltered(e *env) {
	const ring, writes = 16, 400
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: ring})
	next := s.pull(kv.WatchOptions{Prefix: "a"})
	for i := range writes {
		s.set([]string{"a", "b"}[i%2], fmt.Sprint(i))
	}
	last := s.set("a", "fence")
	var at uint64
	lost := false
	for at < last {
		event, err, _ := next()
		if lag, ok := errors.AsType[*kv.LagError](err); ok {
			if lag.First <= at || lag.Last < lag.First || lag.Last > last-ring {
				e.Fatalf("lost %d to %d after revision %d, though %d to %d are held", lag.First, lag.Last, at, last-ring+1, last)
			}
			at, lost = lag.Last, true
			continue
		}
		switch {
		case err != nil:
			e.Fatalf("watch: %v", err)
		case e.Redelivers && event.Revision <= at:
			continue
		case event.Key != "a":
			e.Fatalf("watch of prefix a: %+v", event)
		case event.Revision > at+2: // each second revision is of the key
			e.Fatalf("revision %d after %d", event.Revision, at)
		}
		at = event.Revision
	}
	if !lost && !e.Buffers {
		e.Errorf("nothing was lost of %d events with a ring of %d", writes, ring)
	}
}

// checkWatchHoldsNothingUp has a watcher that never goes on from its first
// event.
func checkWatchHoldsNothingUp(e *env) {
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: 8})
	next := s.pull(kv.WatchOptions{})
	s.set("key", "")
	if _, err, _ := next(); err != nil {
		e.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, e.Patience)
	defer cancel()
	w := s.watch(kv.WatchOptions{})
	for i := range 200 {
		if _, err := s.Set(ctx, "key", fmt.Sprint(i)); err != nil {
			e.Fatalf("set beside a stuck watcher: %v", err)
		}
		w.next()
	}
}

func checkWatchContext(e *env) {
	s := e.open()
	canceled, cancel := context.WithCancel(s.ctx)
	idle := s.watchUntil(canceled, kv.WatchOptions{})
	busy := s.watchUntil(canceled, kv.WatchOptions{Prefix: "key"})
	s.set("key", "")
	idle.next()
	busy.next()
	cancel()
	idle.ends(context.Canceled)
	busy.ends(context.Canceled)
	s.watchUntil(canceled, kv.WatchOptions{}).ends(context.Canceled)

	deadline, cancel := context.WithTimeout(s.ctx, brief)
	defer cancel()
	s.watchUntil(deadline, kv.WatchOptions{}).ends(context.DeadlineExceeded)
	s.set("key", "the store goes on")
}

func checkWatchClose(e *env) {
	s := e.open()
	idle, busy := s.watch(kv.WatchOptions{}), s.watch(kv.WatchOptions{})
	s.set("key", "")
	idle.next()
	busy.next()
	if err := s.Store().Close(); err != nil {
		e.Errorf("close: %v", err)
	}
	idle.ends(kv.ErrClosed)
	busy.ends(kv.ErrClosed)
	s.watch(kv.WatchOptions{}).ends(kv.ErrClosed)
}

// checkWatchLeft breaks out of watches, also out of one that was never iterated.
func checkWatchLeft(e *env) {
	s := e.open()
	ctx, cancel := context.WithTimeout(s.ctx, e.Patience)
	defer cancel()
	_ = s.Watch(ctx, kv.WatchOptions{})
	for range 50 {
		seq := s.Watch(ctx, kv.WatchOptions{})
		revision := s.set("key", "")
		for event, err := range seq {
			if err != nil || event.Revision != revision {
				e.Fatalf("watch: %+v, %v; want revision %d", event, err, revision)
			}
			break
		}
	}
	if ctx.Err() != nil {
		e.Errorf("50 watches took more than %v", e.Patience)
	}
}
