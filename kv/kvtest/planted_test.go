package kvtest

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kvbus/kv"
)

// planted is a right store with a bug in it.
type planted struct {
	kv.Store
	do     func(ctx context.Context, cmd kv.Command) (kv.Result, error)
	get    func(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error)
	scan   func(ctx context.Context, q kv.Query) (kv.Page, error)
	replay func(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error)
	watch  func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error]
	info   func(ctx context.Context) (kv.Info, error)
}

func (p *planted) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) { return p.do(ctx, cmd) }
func (p *planted) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	return p.get(ctx, key, opts)
}
func (p *planted) Scan(ctx context.Context, q kv.Query) (kv.Page, error) { return p.scan(ctx, q) }
func (p *planted) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	return p.replay(ctx, q)
}
func (p *planted) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return p.watch(ctx, opts)
}
func (p *planted) Info(ctx context.Context) (kv.Info, error) { return p.info(ctx) }

// events has f see all events of a store, watched and replayed, and say whether
// they are to be passed on.
func (p *planted) events(f func(*kv.Event) bool) {
	s := p.Store
	p.watch = func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
		seq := s.Watch(ctx, opts)
		return func(yield func(kv.Event, error) bool) {
			for event, err := range seq {
				if (err != nil || f(&event)) && !yield(event, err) {
					return
				}
			}
		}
	}
	p.replay = func(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
		r, err := s.Replay(ctx, q)
		r.Events = slices.DeleteFunc(slices.Clone(r.Events), func(e kv.Event) bool { return !f(&e) })
		return r, err
	}
}

// bugs are what the suite must find, and the check that must find it.
var bugs = []struct {
	name  string
	check string
	plant func(s kv.Store, p *planted)
}{
	{"loses an event", "watch/from now", func(s kv.Store, p *planted) {
		p.events(func(e *kv.Event) bool { return e.Revision != 2 })
	}},
	{"clears without events", "clear/all", func(s kv.Store, p *planted) {
		p.events(func(e *kv.Event) bool { return e.Kind != kv.EventDelete })
	}},
	{"expires without events", "ttl/expiry needs no request", func(s kv.Store, p *planted) {
		p.events(func(e *kv.Event) bool { return e.Kind != kv.EventExpire })
	}},
	{"tells a touch as a set", "touch/the value stays out of the event", func(s kv.Store, p *planted) {
		p.events(func(e *kv.Event) bool {
			if e.Kind == kv.EventTouch {
				e.Kind = kv.EventSet
			}
			return true
		})
	}},
	{"puts events without a filter through", "watch/prefix and filter", func(s kv.Store, p *planted) {
		p.watch = func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
			opts.Filter = kv.Filter{}
			return s.Watch(ctx, opts)
		}
	}},
	{"starts a watch when it is iterated", "watch/the start is fixed by the call", func(s kv.Store, p *planted) {
		p.watch = func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
			return func(yield func(kv.Event, error) bool) { s.Watch(ctx, opts)(yield) }
		}
	}},
	{"counts what was lost wrongly", "watch/a slow one is told what it missed", func(s kv.Store, p *planted) {
		p.watch = func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
			seq := s.Watch(ctx, opts)
			return func(yield func(kv.Event, error) bool) {
				for event, err := range seq {
					if lag, ok := errors.AsType[*kv.LagError](err); ok {
						err = &kv.LagError{First: lag.First, Last: lag.Last - 1}
					}
					if !yield(event, err) {
						return
					}
				}
			}
		}
	}},
	{"says nothing of what was lost", "watch/a slow one is told what it missed", func(s kv.Store, p *planted) {
		p.watch = func(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
			seq := s.Watch(ctx, opts)
			return func(yield func(kv.Event, error) bool) {
				for event, err := range seq {
					if _, lag := errors.AsType[*kv.LagError](err); !lag && !yield(event, err) {
						return
					}
				}
			}
		}
	}},
	{"forgets to clear a deadline", "ttl/a plain write clears the deadline", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			cmd.KeepTTL = cmd.KeepTTL || cmd.TTL == 0 && cmd.Op != kv.OpTouch
			return s.Do(ctx, cmd)
		}
	}},
	{"does not count what a sweep removes", "ttl/sweep", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			r, err := s.Do(ctx, cmd)
			if cmd.Op == kv.OpSweep {
				r.Number = 0
			}
			return r, err
		}
	}},
	{"never keeps a deadline", "keep-ttl/a live key keeps its deadline", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			cmd.KeepTTL = false
			return s.Do(ctx, cmd)
		}
	}},
	{"rounds lives to milliseconds", "ttl/the deadline is the time of the event and the life", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			cmd.TTL = cmd.TTL.Round(time.Millisecond)
			return s.Do(ctx, cmd)
		}
	}},
	{"saturates wrongly", "increment/saturates at both ends", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			old, _ := s.Get(ctx, cmd.Key, kv.ReadOptions{})
			n, err := strconv.ParseInt(old.Value, 10, 64)
			if cmd.Op != kv.OpIncrement || err != nil {
				return s.Do(ctx, cmd)
			}
			r, err := s.Do(ctx, kv.Command{Op: kv.OpSet, Key: cmd.Key, Value: strconv.FormatInt(n+cmd.Delta, 10)})
			r.Number = n + cmd.Delta
			return r, err
		}
	}},
	{"refuses a plus sign", "increment/decimal forms", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			if old, _ := s.Get(ctx, cmd.Key, kv.ReadOptions{}); cmd.Op == kv.OpIncrement && strings.HasPrefix(old.Value, "+") {
				return kv.Result{}, kv.ErrNotANumber
			}
			return s.Do(ctx, cmd)
		}
	}},
	{"takes text for 0", "increment/not a number", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			r, err := s.Do(ctx, cmd)
			if errors.Is(err, kv.ErrNotANumber) {
				return s.Do(ctx, kv.Command{Op: kv.OpSet, Key: cmd.Key, Value: strconv.FormatInt(cmd.Delta, 10)})
			}
			return r, err
		}
	}},
	{"takes empty for absent", "cas/empty is not absent", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			if cmd.Expect == kv.IfValue("") {
				cmd.Expect = kv.IfAbsent()
			}
			return s.Do(ctx, cmd)
		}
	}},
	{"tells no revision with a conflict", "set/expected revision", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			r, err := s.Do(ctx, cmd)
			if err != nil {
				r = kv.Result{}
			}
			return r, err
		}
	}},
	{"says true for each delete", "delete/says whether a live key was there", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			r, err := s.Do(ctx, cmd)
			r.Applied = r.Applied || cmd.Op == kv.OpDelete
			return r, err
		}
	}},
	{"counts expired keys in the quota", "limits/expired keys free their room", func(s kv.Store, p *planted) {
		var mu sync.Mutex
		there := map[string]bool{}
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			info, err := s.Info(ctx)
			if cmd.Op == kv.OpSet && !there[cmd.Key] && len(there) >= int(info.Limits.MaxKeys) {
				return kv.Result{}, kv.ErrQuotaExceeded
			}
			there[cmd.Key] = cmd.Op != kv.OpDelete && err == nil
			if !there[cmd.Key] {
				delete(there, cmd.Key)
			}
			return s.Do(ctx, cmd)
		}
	}},
	{"has a quota on overwriting", "limits/number of keys", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			if info, _ := s.Info(ctx); info.Keys >= info.Limits.MaxKeys {
				return kv.Result{}, kv.ErrQuotaExceeded
			}
			return s.Do(ctx, cmd)
		}
	}},
	{"takes any mark in a key", "keys/invalid", func(s kv.Store, p *planted) {
		p.get = func(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
			return s.Get(ctx, strings.ReplaceAll(key, "\u0301", ""), opts)
		}
	}},
	{"folds empty tokens", "keys/empty tokens are kept apart", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			cmd.Key = strings.ReplaceAll(cmd.Key, "..", ".")
			return s.Do(ctx, cmd)
		}
	}},
	{"shows what has expired", "ttl/a read never shows what is past its deadline", func(s kv.Store, p *planted) {
		var mu sync.Mutex
		seen := map[string]kv.Entry{}
		p.get = func(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
			mu.Lock()
			defer mu.Unlock()
			e, err := s.Get(ctx, key, opts)
			if old, ok := seen[key]; ok && err != nil {
				delete(seen, key)
				return old, nil
			} else if err == nil {
				seen[key] = e
			}
			return e, err
		}
	}},
	{"sorts nothing", "scan/all, sorted by bytes", func(s kv.Store, p *planted) {
		p.scan = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			page, err := s.Scan(ctx, q)
			slices.Reverse(page.Entries)
			return page, err
		}
	}},
	{"skips an entry between pages", "scan/pages of a number of entries", func(s kv.Store, p *planted) {
		p.scan = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			page, err := s.Scan(ctx, q)
			if page.Cursor != "" {
				page.Cursor += "."
			}
			return page, err
		}
	}},
	{"tears a scan", "scan/a page is of one revision", func(s kv.Store, p *planted) {
		p.scan = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			q.Limit = 3
			whole, err := s.Scan(ctx, q)
			for err == nil && whole.Cursor != "" {
				q.Cursor = whole.Cursor
				runtime.Gosched() // on one processor nobody else would write meanwhile
				var page kv.Page
				page, err = s.Scan(ctx, q)
				whole.Entries = append(whole.Entries, page.Entries...)
				whole.Cursor = page.Cursor
			}
			return whole, err
		}
	}},
	{"replays what it has without a word of the rest", "replay/older than the ring", func(s kv.Store, p *planted) {
		p.replay = func(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
			info, err := s.Info(ctx)
			if err != nil {
				return kv.Replay{}, err
			}
			q.After = max(q.After, info.OldestRevision-1)
			return s.Replay(ctx, q)
		}
	}},
	{"replays one event where more have room", "replay/parts of a size", func(s kv.Store, p *planted) {
		p.replay = func(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
			if q.MaxBytes > 0 {
				q.Limit = 1
			}
			return s.Replay(ctx, q)
		}
	}},
	{"carries out each repeat", "repeats/increment", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			cmd.RequestID = ""
			return s.Do(ctx, cmd)
		}
	}},
	{"carries out a repeat that comes at the same time", "repeats/at the same time", func(s kv.Store, p *planted) {
		p.do = remembering(s, func(cmd kv.Command) any { return cmd })
	}},
	{"remembers successes only", "repeats/errors", func(s kv.Store, p *planted) {
		var mu sync.Mutex
		failed := map[string]bool{}
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			id := cmd.RequestID
			if failed[id] {
				cmd.RequestID = ""
			}
			r, err := s.Do(ctx, cmd)
			if id != "" {
				failed[id] = err != nil
			}
			return r, err
		}
	}},
	{"forgets that a swap did not hold", "repeats/what did not apply", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			id := cmd.RequestID
			cmd.RequestID = ""
			if r, err := s.Do(ctx, cmd); !r.Applied {
				return r, err
			}
			cmd.RequestID = id
			return s.Do(ctx, cmd)
		}
	}},
	{"answers another command as the first", "repeats/of another command", func(s kv.Store, p *planted) {
		p.do = remembering(s, func(cmd kv.Command) any { return [3]any{cmd.Op, cmd.Key, cmd.RequestID} })
	}},
	{"has one id for all keys", "repeats/another key or operation", func(s kv.Store, p *planted) {
		p.do = remembering(s, func(cmd kv.Command) any { return cmd.RequestID })
	}},
	{"remembers for ever", "repeats/as many as the limit", func(s kv.Store, p *planted) {
		p.do = remembering(s, func(cmd kv.Command) any { return cmd })
	}},
	{"remembers without an end", "repeats/as long as the limit", func(s kv.Store, p *planted) {
		p.do = remembering(s, func(cmd kv.Command) any { return cmd })
	}},
	{"ignores contexts", "lifecycle/a context that is over", func(s kv.Store, p *planted) {
		p.do = func(_ context.Context, cmd kv.Command) (kv.Result, error) { return s.Do(context.Background(), cmd) }
	}},
	{"reads and writes in two steps", "concurrency/increments add up", func(s kv.Store, p *planted) {
		p.do = func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
			old, _ := s.Get(ctx, cmd.Key, kv.ReadOptions{})
			n, _ := strconv.ParseInt(old.Value, 10, 64)
			time.Sleep(pause)
			return s.Do(ctx, kv.Command{Op: kv.OpSet, Key: cmd.Key, Value: strconv.FormatInt(n+cmd.Delta, 10)})
		}
	}},
}

// remembering is a store before a store: it answers commands with a request id
// that are the same in what id says of them from the first of them. It does not
// notice one that comes while the first is under way.
func remembering(s kv.Store, id func(kv.Command) any) func(context.Context, kv.Command) (kv.Result, error) {
	type outcome struct {
		result kv.Result
		err    error
	}
	var mu sync.Mutex
	done := map[any]outcome{}
	return func(ctx context.Context, cmd kv.Command) (kv.Result, error) {
		plain := cmd
		plain.RequestID = ""
		if cmd.RequestID == "" {
			return s.Do(ctx, plain)
		}
		mu.Lock()
		o, ok := done[id(cmd)]
		mu.Unlock()
		if !ok {
			time.Sleep(pause)
			o.result, o.err = s.Do(ctx, plain)
			mu.Lock()
			done[id(cmd)] = o
			mu.Unlock()
		}
		return o.result, o.err
	}
}

// TestSuiteFindsPlantedBugs has each bug found by the check that is there for
// it; a suite that can't fail shows nothing.
func TestSuiteFindsPlantedBugs(t *testing.T) {
	checks := map[string]check{}
	for _, g := range groups() {
		for _, c := range g.checks {
			checks[g.name+"/"+c.name] = c
		}
	}
	for _, bug := range bugs {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			c, ok := checks[bug.check]
			if !ok {
				t.Fatalf("there is no check %q", bug.check)
			}
			found := failures(t, c, Config{
				Patience: 500 * time.Millisecond,
				Open: func(_ testing.TB, opts Options) kv.Store {
					s := NewModelStore(opts)
					p := &planted{s, s.Do, s.Get, s.Scan, s.Replay, s.Watch, s.Info}
					bug.plant(s, p)
					return p
				},
			})
			if len(found) == 0 {
				t.Errorf("%s did not find it", bug.check)
			}
		})
	}
}
