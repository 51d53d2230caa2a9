package kvtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kvbus/kv"
)

func lifecycleChecks() []check {
	return []check{
		{"a context that is over", checkContextOver},
		{"calls after close", checkAfterClose},
		{"close beside calls", checkCloseBeside},
		{"stores are apart", checkStoresApart},
	}
}

// calls are all methods that take a context, but for Watch.
func (s *subject) calls(ctx context.Context) map[string]func() error {
	return map[string]func() error{
		"set":                  func() error { _, err := s.Set(ctx, "key", "new"); return err },
		"delete":               func() error { _, err := s.Delete(ctx, "key"); return err },
		"increment":            func() error { _, err := s.Increment(ctx, "number", 1); return err },
		"touch":                func() error { _, err := s.Touch(ctx, "key", time.Hour); return err },
		"clear":                func() error { _, err := s.Clear(ctx, ""); return err },
		"get":                  func() error { _, err := s.Get(ctx, "key"); return err },
		"get of an absent key": func() error { _, err := s.Get(ctx, "absent"); return err },
		"exists":               func() error { _, err := s.Exists(ctx, "key"); return err },
		"scan":                 func() error { _, err := s.Store().Scan(ctx, kv.Query{}); return err },
		"keys":                 func() error { _, err := s.Keys(ctx, ""); return err },
		"replay":               func() error { _, err := s.Store().Replay(ctx, kv.ReplayQuery{}); return err },
		"info":                 func() error { _, err := s.Store().Info(ctx); return err },
		"cas": func() error {
			_, _, err := s.CompareAndSwap(ctx, "key", kv.IfAbsent(), "")
			return err
		},
		"entries": func() error {
			for _, err := range s.Entries(ctx, kv.Query{}) {
				return err
			}
			return nil
		},
	}
}

func checkContextOver(e *env) {
	s := e.open()
	s.set("key", "old")
	canceled, cancel := context.WithCancel(s.ctx)
	cancel()
	late, cancel := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for ctx, want := range map[context.Context]error{canceled: context.Canceled, late: context.DeadlineExceeded} {
		s.unchanged("calls with a context that is over", func() {
			for name, call := range s.calls(ctx) {
				s.wantErr(name, call(), want)
			}
		})
		s.watchUntil(ctx, kv.WatchOptions{}).ends(want)
	}
	s.holds("key", "old")
}

func checkAfterClose(e *env) {
	s := e.open()
	s.set("key", "old")
	s.set("brief", "", kv.WithTTL(brief))
	for range 3 {
		if err := s.Store().Close(); err != nil {
			e.Errorf("close: %v", err)
		}
		for name, call := range s.calls(s.ctx) {
			s.wantErr(name+" after close", call(), kv.ErrClosed)
			s.wantErr(name+" after close", call(), kv.ErrUnavailable)
		}
		s.watch(kv.WatchOptions{}).ends(kv.ErrClosed)
	}
}

// checkCloseBeside closes a store that is in use: each call is answered, by
// what it asked for or by the error of a store that is gone.
func checkCloseBeside(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	started := make(chan struct{})
	var once sync.Once
	go func() {
		<-started
		_ = s.Store().Close()
	}()
	s.together(4, func(worker int) error {
		ctx, cancel := context.WithTimeout(s.ctx, e.Patience)
		defer cancel()
		for i := 0; ; i++ {
			if i == 10 {
				once.Do(func() { close(started) })
			}
			_, err := s.Set(ctx, fmt.Sprint("key", worker), fmt.Sprint(i), kv.WithTTL(time.Millisecond))
			if errors.Is(err, kv.ErrTimeout) {
				return nil // it was under way, and nobody knows
			}
			if err != nil {
				s.wantErr("set beside close", err, kv.ErrUnavailable)
				return nil
			}
		}
	})
	for {
		if got := w.receive(); got.err != nil {
			s.wantErr("watch beside close", got.err, kv.ErrClosed)
			return
		}
	}
}

func checkStoresApart(e *env) {
	one, two := e.open(), e.open()
	one.set("key", "value")
	two.lacks("key")
	e.equal("revision of the other store", two.revision(), uint64(0))
	if err := one.Store().Close(); err != nil {
		e.Errorf("close: %v", err)
	}
	two.set("key", "value")
}
