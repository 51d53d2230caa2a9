package recipe_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kvbus/bus"
	"kvbus/bus/recipe"
	"kvbus/kv"
	"kvbus/kv/memory"
)

// A source is followed without a bus. What is given to changes is told between
// two events.
type source struct {
	*memory.Store
	restart chan error // have it begin anew
	end     chan error // have it end
	notice  chan bus.Notice
	hold    chan struct{} // waits before the state is complete, where it is not nil
	unseen  func()        // is done before the state is read, where it is not nil
}

func newSource(t testing.TB) *source {
	return &source{
		Store:   newStore(t),
		restart: make(chan error),
		end:     make(chan error),
		notice:  make(chan bus.Notice),
	}
}

func (s *source) Follow(ctx context.Context, opts bus.FollowOptions) iter.Seq2[bus.Change, error] {
	return func(yield func(bus.Change, error) bool) {
		for s.life(ctx, opts, yield) {
		}
	}
}

// life gives the state and what follows, and reports whether it begins anew.
func (s *source) life(ctx context.Context, opts bus.FollowOptions, yield func(bus.Change, error) bool) bool {
	events := make(chan kv.Event)
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	if s.unseen != nil {
		s.unseen()
	}
	page, err := s.Scan(ctx, kv.Query{Prefix: opts.Prefix, Filter: opts.Filter})
	if err != nil {
		yield(bus.Change{}, err)
		return false
	}
	for _, entry := range page.Entries {
		if !yield(bus.Change{Kind: bus.ChangeState, Entry: entry, Revision: entry.Revision}, nil) {
			return false
		}
	}
	if s.hold != nil {
		<-s.hold
	}
	if !yield(bus.Change{Kind: bus.ChangeReady, Revision: page.Revision}, nil) {
		return false
	}
	watching.Go(func() {
		defer close(events)
		for event, err := range s.Watch(ctx, kv.WatchOptions{Prefix: opts.Prefix, Filter: opts.Filter, Start: kv.After(page.Revision)}) {
			if err != nil {
				return
			}
			select {
			case events <- event:
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		select {
		case event, ok := <-events:
			if !ok {
				yield(bus.Change{}, context.Cause(ctx))
				return false
			}
			if !yield(bus.Change{Kind: bus.ChangeEvent, Event: event, Revision: event.Revision}, nil) {
				return false
			}
		case cause := <-s.restart:
			return yield(bus.Change{Kind: bus.ChangeRestart, Cause: cause}, nil)
		case err := <-s.end:
			yield(bus.Change{}, err)
			return false
		case n := <-s.notice:
			opts.Notify(n)
		}
	}
}

func newMirror(t testing.TB, s recipe.Source, opts recipe.MirrorOptions) *recipe.Mirror {
	t.Helper()
	m, err := recipe.NewMirror(s, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func set(t testing.TB, store kv.Store, key, value string, opts ...kv.WriteOption) uint64 {
	t.Helper()
	revision, err := kv.Of(store).Set(t.Context(), key, value, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// waitFor waits until the mirror shows a revision, and compares it with the store.
func waitFor(t testing.TB, m *recipe.Mirror, store kv.Store, prefix string, revision uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.WaitFor(ctx, revision); err != nil {
		t.Fatal(err)
	}
	same(t, m, store, prefix)
}

func same(t testing.TB, m *recipe.Mirror, store kv.Store, prefix string) {
	t.Helper()
	page, err := store.Scan(context.Background(), kv.Query{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	var bytes int64
	for _, want := range page.Entries {
		got, err := m.Get(want.Key)
		if got.Value != want.Value || got.Revision != want.Revision || !got.ExpiresAt.Equal(want.ExpiresAt) || err != nil {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		bytes += int64(len(want.Key) + len(want.Value))
	}
	all := 0
	for entry := range m.All() {
		all++
		if got, err := m.Get(entry.Key); got.Revision < entry.Revision || err != nil {
			t.Errorf("%v, and then %v, %v", entry, got, err)
		}
	}
	if s := m.Status(); all != len(page.Entries) || s.Keys != int64(all) || s.Bytes != bytes || s.Revision != m.Revision() {
		t.Errorf("%d entries, status %+v, want %d of %d bytes", all, s, len(page.Entries), bytes)
	}
}

func TestMirrorShowsWhatTheStoreHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		set(t, s, "app.a", "1")
		set(t, s, "app.b", "2", kv.WithTTL(time.Minute))
		set(t, s, "other", "3")
		m := newMirror(t, s, recipe.MirrorOptions{FollowOptions: bus.FollowOptions{Prefix: "app."}})
		<-m.Ready()
		if m.Revision() != 3 {
			t.Errorf("revision %d", m.Revision())
		}
		waitFor(t, m, s, "app.", 3)
		waitFor(t, m, s, "app.", set(t, s, "app.a", "longer"))
		waitFor(t, m, s, "app.", set(t, s, "app.c", "new", kv.WithTTL(time.Hour)))
		if _, err := kv.Of(s).Touch(t.Context(), "app.c", time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		same(t, m, s, "app.")
		if _, err := kv.Of(s).Delete(t.Context(), "app.a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		same(t, m, s, "app.")
		time.Sleep(time.Hour)
		synctest.Wait()
		same(t, m, s, "app.")
		for key, want := range map[string]error{"app.a": kv.ErrNotFound, "app.b": kv.ErrNotFound, "other": recipe.ErrNotMirrored} {
			if _, err := m.Get(key); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", key, err, want)
			}
		}
		if entry, err := m.Read(t.Context(), "other"); entry.Value != "3" || err != nil {
			t.Errorf("%v, %v", entry, err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel() // the source would say so
		if _, err := m.Read(over, "app.a"); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("a key that is gone: %v; the mirror knows by itself", err)
		}
	})
}

func TestMirrorIsNotReadyBeforeItHasAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		s.hold = make(chan struct{})
		set(t, s, "a", "1")
		m := newMirror(t, s, recipe.MirrorOptions{})
		synctest.Wait()
		if _, err := m.Get("a"); !errors.Is(err, recipe.ErrNotReady) || isLost(m.Ready()) {
			t.Errorf("half of it is shown: %v", err)
		}
		for entry := range m.All() {
			t.Errorf("half of it is shown: %+v", entry)
		}
		if entry, err := m.Read(t.Context(), "a"); entry.Value != "1" || err != nil {
			t.Errorf("%v, %v", entry, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.WaitFor(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		close(s.hold)
		waitFor(t, m, s, "", 1)
	})
}

// Those who wait for a revision see what has it, however many wait.
func TestMirrorReadsOwnWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		m := newMirror(t, s, recipe.MirrorOptions{})
		var writers sync.WaitGroup
		for i := range 10 {
			writers.Go(func() {
				key := "key" + strconv.Itoa(i)
				for n := range 100 {
					want := strconv.Itoa(n)
					if err := m.WaitFor(t.Context(), set(t, s, key, want)); err != nil {
						t.Error(err)
					}
					if got, err := m.Get(key); got.Value != want || err != nil {
						t.Errorf("%s: %v, %v, want %s", key, got, err, want)
					}
				}
			})
		}
		writers.Wait()
		same(t, m, s, "")
	})
}

// Who waits for a near revision does not wait for one that others wait for.
func TestMirrorWaitsForEachRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		m := newMirror(t, s, recipe.MirrorOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		defer waiting.Wait()
		defer cancel()
		var near atomic.Bool
		for _, revision := range []uint64{5, 1, 9} {
			waiting.Go(func() {
				err := m.WaitFor(ctx, revision)
				if revision == 1 {
					near.Store(err == nil)
				} else if !errors.Is(err, context.Canceled) {
					t.Errorf("revision %d: %v", revision, err)
				}
			})
			synctest.Wait()
		}
		set(t, s, "key", "value")
		synctest.Wait()
		if !near.Load() {
			t.Error("revision 1 is there, and who waits for it waits on")
		}
	})
}

func TestMirrorDoesNotShowWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		set(t, s, "a", "1", kv.WithTTL(time.Minute))
		m := newMirror(t, s, recipe.MirrorOptions{})
		<-m.Ready()
		s.hold = make(chan struct{})
		defer close(s.hold)
		s.end <- kv.ErrUnavailable // from now on it learns nothing
		time.Sleep(time.Minute - time.Nanosecond)
		if _, err := m.Get("a"); err != nil {
			t.Errorf("before the deadline: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := m.Get("a"); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("after the deadline: %v", err)
		}
		for entry := range m.All() {
			t.Errorf("%v is shown", entry)
		}
	})
}

func TestMirrorBeginsAnew(t *testing.T) {
	for name, lose := range map[string]func(s *source){
		"restart": func(s *source) { s.restart <- kv.ErrCompacted },
		"end":     func(s *source) { s.end <- kv.ErrUnavailable },
		"doubt":   func(s *source) { s.notice <- bus.Notice{Kind: bus.NoticeUnaudited, Err: kv.ErrCompacted} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSource(t)
				set(t, s, "a", "old")
				set(t, s, "b", "gone")
				m := newMirror(t, s, recipe.MirrorOptions{})
				<-m.Ready()
				s.hold = make(chan struct{})
				s.unseen = func() {
					if _, err := kv.Of(s).Delete(t.Context(), "b"); err != nil {
						t.Error(err)
					}
				}
				lose(s)
				time.Sleep(time.Second)
				synctest.Wait()
				status := m.Status()
				if !status.Stale || status.Cause == nil || !status.Ready || time.Since(status.Since) < time.Second/2 {
					t.Errorf("%+v", status)
				}
				if entry, err := m.Get("a"); entry.Value != "old" || err != nil {
					t.Errorf("what was known is not shown: %v, %v", entry, err)
				}
				revision := set(t, s, "a", "new")
				if entry, err := m.Read(t.Context(), "a"); entry.Value != "new" || err != nil {
					t.Errorf("a stale mirror is read: %v, %v", entry, err)
				}
				close(s.hold)
				waitFor(t, m, s, "", revision)
				if status := m.Status(); status.Stale {
					t.Errorf("%+v", status)
				}
			})
		})
	}
}

func TestMirrorTellsThatItIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		var told []bus.NoticeKind
		m := newMirror(t, s, recipe.MirrorOptions{FollowOptions: bus.FollowOptions{Notify: func(n bus.Notice) { told = append(told, n.Kind) }}})
		<-m.Ready()
		began := time.Now()
		for _, cause := range []error{kv.ErrUnavailable, kv.ErrTimeout} { // the first tells since when, and why
			s.notice <- bus.Notice{Kind: bus.NoticeStale, Err: cause}
			synctest.Wait()
			if status := m.Status(); !status.Stale || !status.Since.Equal(began) || !errors.Is(status.Cause, kv.ErrUnavailable) {
				t.Errorf("%+v, want %v since %v", status, kv.ErrUnavailable, began)
			}
			time.Sleep(time.Second)
		}
		s.notice <- bus.Notice{Kind: bus.NoticeLive}
		synctest.Wait()
		if status := m.Status(); status.Stale || len(told) != 3 {
			t.Errorf("%+v, told %v", status, told)
		}
	})
}

func TestMirrorIsBounded(t *testing.T) {
	for name, opts := range map[string]recipe.MirrorOptions{"keys": {MaxKeys: 3}, "bytes": {MaxBytes: 12}} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprint(name, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSource(t)
					for _, key := range []string{"k1", "k2", "k3"} {
						set(t, s, key, "vv")
					}
					if !after {
						set(t, s, "k4", "v")
					}
					m := newMirror(t, s, opts)
					<-m.Ready()
					if after {
						waitFor(t, m, s, "", 3)
						set(t, s, "k4", "v")
						synctest.Wait()
					}
					_, err := m.Get("k1")
					for _, err := range []error{m.Err(), err, m.WaitFor(t.Context(), 9)} {
						if !errors.Is(err, recipe.ErrMirrorFull) {
							t.Errorf("%v", err)
						}
					}
					if entry, err := m.Read(t.Context(), "k1"); entry.Value != "vv" || err != nil {
						t.Errorf("%v, %v", entry, err)
					}
				})
			})
		}
	}
}

func TestMirrorEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		m := newMirror(t, s, recipe.MirrorOptions{})
		<-m.Ready()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if err := m.WaitFor(t.Context(), 1); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("%v", err)
			}
		})
		synctest.Wait()
		m.Close()
		m.Close()
		waiting.Wait()
		if _, err := m.Get("a"); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("%v", err)
		}
		if status := m.Status(); !status.Stale || status.Ready {
			t.Errorf("%+v", status)
		}
	})
	s := newSource(t)
	for _, opts := range []recipe.MirrorOptions{{MaxKeys: -1}, {MaxBytes: -1}, {FollowOptions: bus.FollowOptions{Prefix: "no prefix"}}} {
		if _, err := recipe.NewMirror(s, opts); err == nil {
			t.Errorf("%+v is no error", opts)
		}
	}
}

// While the mirror waits for its refill, requests fail once, and succeed again.
func TestMirrorIsStaleUntilItIsRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		s.hold = make(chan struct{})
		m := newMirror(t, s, recipe.MirrorOptions{})
		time.Sleep(time.Second) // that is how long it takes to fill it
		close(s.hold)
		<-m.Ready()
		s.notice <- bus.Notice{Kind: bus.NoticeUnaudited, Err: kv.ErrCompacted} // it is refilled 19 s later
		synctest.Wait()
		if !m.Status().Stale {
			t.Error("it is not stale")
		}
		s.notice <- bus.Notice{Kind: bus.NoticeStale, Err: kv.ErrUnavailable}
		s.notice <- bus.Notice{Kind: bus.NoticeLive}
		synctest.Wait()
		if !m.Status().Stale {
			t.Error("it may have lost a change, and says that it is fresh before it is filled anew")
		}
	})
}

// A watch that was well for an hour begins anew, as after a restart of a store in memory,
// and has the state at once. An hour later an audit comes too late.
func TestMirrorIsRefilledSoonAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		m := newMirror(t, s, recipe.MirrorOptions{})
		<-m.Ready()
		time.Sleep(time.Hour)
		s.restart <- kv.ErrCompacted
		synctest.Wait()
		if m.Status().Stale {
			t.Fatal("it is not filled")
		}
		time.Sleep(time.Hour)
		s.notice <- bus.Notice{Kind: bus.NoticeUnaudited, Err: kv.ErrCompacted}
		start := time.Now()
		synctest.Wait()
		for m.Status().Stale && time.Since(start) < 100*time.Hour {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("it was refilled after %v", took)
		}
	})
}
