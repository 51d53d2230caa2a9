package kvtest

import (
	"context"
	"errors"
	"time"

	"kvbus/kv"
)

// A watcher collects what a watch yields, as fast as it comes.
type watcher struct {
	e    *env
	last uint64
	ch   chan yielded
}

type yielded struct {
	event kv.Event
	err   error
}

// watch starts a watch that ends with the check.
func (s *subject) watch(opts kv.WatchOptions) *watcher {
	return s.watchUntil(s.ctx, opts)
}

// watchUntil starts a watch that ends with ctx, or with the check.
func (s *subject) watchUntil(ctx context.Context, opts kv.WatchOptions) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{e: s.e, ch: make(chan yielded, 1024)}
	seq := s.Watch(ctx, opts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.ch)
		for event, err := range seq {
			select {
			case w.ch <- yielded{event, err}:
			case <-time.After(s.e.Patience):
				return
			}
		}
	}()
	s.e.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(s.e.Patience):
			s.e.Errorf("a watch goes on %v after its context ended", s.e.Patience)
		}
	})
	return w
}

// next returns the next event.
func (w *watcher) next() kv.Event {
	w.e.Helper()
	got := w.receive()
	if got.err != nil {
		w.e.Fatalf("watch: %v", got.err)
	}
	return got.event
}

// take returns the next n events.
func (w *watcher) take(n int) []kv.Event {
	w.e.Helper()
	events := make([]kv.Event, n)
	for i := range events {
		events[i] = w.next()
	}
	return events
}

// ends checks that the watch yields nothing more but one error, and is over.
func (w *watcher) ends(want error) {
	w.e.Helper()
	got := w.receive()
	if !errors.Is(got.err, want) {
		w.e.Fatalf("watch: %+v, error %v; want the end with %v", got.event, got.err, want)
	}
	select {
	case more, ok := <-w.ch:
		if ok {
			w.e.Errorf("watch: %+v after its end", more)
		}
	case <-time.After(w.e.Patience):
		w.e.Fatalf("the watch goes on after %v", want)
	}
}

func (w *watcher) receive() yielded {
	w.e.Helper()
	end := time.NewTimer(w.e.Patience)
	defer end.Stop()
	for {
		select {
		case got, ok := <-w.ch:
			switch {
			case !ok:
				w.e.Fatalf("watch: it ended without an error after revision %d", w.last)
			case got.err == nil && w.e.Redelivers && got.event.Revision <= w.last:
				continue
			case got.err == nil:
				w.last = got.event.Revision
			}
			return got
		case <-end.C:
			w.e.Fatalf("watch: nothing came within %v after revision %d", w.e.Patience, w.last)
		}
	}
}
