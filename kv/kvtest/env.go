package kvtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"kvbus/kv"
)

// pause is how long a wait for a condition rests between two looks.
const pause = time.Millisecond

// An env is what a check has to work with.
type env struct {
	testing.TB
	Config
}

func newEnv(t testing.TB, cfg Config) *env {
	cfg.ExpiryBound = cmp.Or(cfg.ExpiryBound, 10*time.Millisecond)
	cfg.Patience = cmp.Or(cfg.Patience, 30*time.Second)
	return &env{t, cfg}
}

// eventually waits until cond holds; what describes it.
func (e *env) eventually(what string, cond func() bool) {
	e.Helper()
	for end := time.Now().Add(e.Patience); !cond(); time.Sleep(pause) {
		if time.Now().After(end) {
			e.Fatalf("not so within %v: %s", e.Patience, what)
		}
	}
}

// open returns a store with the default limits.
func (e *env) open() *subject {
	e.Helper()
	return e.openWith(Options{Limits: kv.DefaultLimits()})
}

func (e *env) openWith(opts Options) *subject {
	e.Helper()
	store := e.Open(e.TB, opts)
	e.Cleanup(func() {
		if err := store.Close(); err != nil {
			e.Errorf("Close: %v", err)
		}
	})
	return &subject{Handle: kv.Of(store), e: e, ctx: e.Context()}
}

// A subject is the store under test. Its methods end the check if the store
// answers with an error that is not expected; the ones of the handle give the
// error.
type subject struct {
	kv.Handle
	e   *env
	ctx context.Context
}

// do carries out a command that must not fail.
func (s *subject) do(cmd kv.Command) kv.Result {
	s.e.Helper()
	result, err := s.Store().Do(s.ctx, cmd)
	if err != nil {
		s.e.Fatalf("%s: %v", describe(cmd), err)
	}
	return result
}

// refuses carries out a command that must fail with want and change nothing.
func (s *subject) refuses(want error, cmd kv.Command) kv.Result {
	s.e.Helper()
	var result kv.Result
	s.unchanged(describe(cmd), func() {
		var err error
		result, err = s.Store().Do(s.ctx, cmd)
		s.wantErr(describe(cmd), err, want)
	})
	return result
}

func (s *subject) set(key, value string, opts ...kv.WriteOption) uint64 {
	s.e.Helper()
	revision, err := s.Set(s.ctx, key, value, opts...)
	if err != nil {
		s.e.Fatalf("set %q: %v", key, err)
	}
	return revision
}

func (s *subject) remove(key string) bool {
	s.e.Helper()
	return s.do(kv.Command{Op: kv.OpDelete, Key: key}).Applied
}

// entry returns the entry of a key that must be there.
func (s *subject) entry(key string) kv.Entry {
	s.e.Helper()
	entry, err := s.Get(s.ctx, key)
	if err != nil {
		s.e.Fatalf("get %q: %v", key, err)
	}
	if entry.Key != key {
		s.e.Errorf("get %q: the entry is of key %q", key, entry.Key)
	}
	return entry
}

// holds checks the value of a key.
func (s *subject) holds(key, want string) {
	s.e.Helper()
	if got := s.entry(key).Value; got != want {
		s.e.Errorf("key %q holds %.60q, want %.60q", key, got, want)
	}
}

// lacks checks that no live key is there.
func (s *subject) lacks(key string) {
	s.e.Helper()
	entry, err := s.Get(s.ctx, key)
	if !errors.Is(err, kv.ErrNotFound) {
		s.e.Errorf("get %q: %+v, error %v; want %v", key, entry, err, kv.ErrNotFound)
	}
}

func (s *subject) info() kv.Info {
	s.e.Helper()
	info, err := s.Store().Info(s.ctx)
	if err != nil {
		s.e.Fatalf("info: %v", err)
	}
	return info
}

func (s *subject) revision() uint64 {
	s.e.Helper()
	return s.info().Revision
}

func (s *subject) scan(q kv.Query) kv.Page {
	s.e.Helper()
	page, err := s.Store().Scan(s.ctx, q)
	if err != nil {
		s.e.Fatalf("scan %+v: %v", q, err)
	}
	return page
}

func (s *subject) replay(q kv.ReplayQuery) kv.Replay {
	s.e.Helper()
	replay, err := s.Store().Replay(s.ctx, q)
	if err != nil {
		s.e.Fatalf("replay %+v: %v", q, err)
	}
	return replay
}

// event returns the event of a revision.
func (s *subject) event(revision uint64) kv.Event {
	s.e.Helper()
	replay := s.replay(kv.ReplayQuery{After: revision - 1, Limit: 1})
	if len(replay.Events) != 1 || replay.Events[0].Revision != revision {
		s.e.Fatalf("replay of one event after %d: %+v", revision-1, replay.Events)
	}
	return replay.Events[0]
}

// unchanged checks that f makes no mutation. No deadline may be pending.
func (s *subject) unchanged(what string, f func()) {
	s.e.Helper()
	before := s.revision()
	f()
	if after := s.revision(); after != before {
		s.e.Errorf("%s: the revision went from %d to %d; it must stay", what, before, after)
	}
}

// expired leaves an entry under key that has expired, and returns the revision
// with which it was written. The expiry may or may not have had its event.
func (s *subject) expired(key, value string) uint64 {
	s.e.Helper()
	revision := s.set(key, value, kv.WithTTL(1))
	s.e.eventually(fmt.Sprintf("key %q expires", key), func() bool {
		_, err := s.Get(s.ctx, key)
		return errors.Is(err, kv.ErrNotFound)
	})
	return revision
}

// settled waits until all that has expired had its event: the revision is want.
func (s *subject) settled(want uint64) {
	s.e.Helper()
	s.e.eventually(fmt.Sprintf("the store is at revision %d", want), func() bool { return s.revision() >= want })
	if got := s.revision(); got != want {
		s.e.Fatalf("the store is at revision %d, want %d", got, want)
	}
}

func (s *subject) wantErr(what string, err, want error) {
	s.e.Helper()
	if !errors.Is(err, want) {
		s.e.Errorf("%s: error %v, want %v", what, err, want)
	}
}

// same checks an event but for its time.
func (e *env) same(got, want kv.Event) {
	e.Helper()
	if got.Time.IsZero() || got.Time.Location() != time.UTC {
		e.Errorf("event %d: its time is %v, want one in UTC", got.Revision, got.Time)
	}
	got.Time, got.Trace, want.Time, want.Trace = time.Time{}, kv.Trace{}, time.Time{}, kv.Trace{}
	if got != want {
		e.Errorf("event\n got %+v\nwant %+v", got, want)
	}
}

func (e *env) equal(what string, got, want any) {
	e.Helper()
	if got != want {
		e.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func describe(cmd kv.Command) string {
	return fmt.Sprintf("%v %.60q %+v", cmd.Op, cmd.Key, struct {
		Value   string
		Delta   int64
		TTL     time.Duration
		KeepTTL bool
		Expect  kv.Expectation

		RequestID string
	}{fmt.Sprintf("%.60s", cmd.Value), cmd.Delta, cmd.TTL, cmd.KeepTTL, cmd.Expect, cmd.RequestID})
}

// write returns the command of a write, for checks that go over several of them.
func write(op kv.Op, key, value string) kv.Command {
	cmd := kv.Command{Op: op, Key: key, Value: value}
	switch op {
	case kv.OpIncrement:
		cmd.Delta = 1
	case kv.OpCompareAndSwap:
		cmd.Expect = kv.IfAbsent()
	}
	return cmd
}
