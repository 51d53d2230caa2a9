package kvtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kvbus/kv"
)

// A faulty store is a right one that goes wrong at each rate-th call of which it
// asks whether it is due. Its calls come one at a time.
type faulty struct {
	kv.Store
	mu   sync.Mutex
	n    int
	rate int
	do   func(f *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error)
	get  func(f *faulty, ctx context.Context, key string) (kv.Entry, error)
}

func (f *faulty) due() bool { f.n++; return f.n%f.rate == 0 }

func (f *faulty) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.do == nil {
		return f.Store.Do(ctx, cmd)
	}
	return f.do(f, ctx, cmd)
}

func (f *faulty) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.get == nil {
		return f.Store.Get(ctx, key, opts)
	}
	return f.get(f, ctx, key)
}

func openFaulty(t testing.TB, f *faulty) *faulty {
	f.Store = openModel(t, Options{})
	t.Cleanup(func() { f.Close() })
	return f
}

// onWrites goes wrong on the rate-th of those commands of an operation that
// take effect: spoil is given the entry from before, and the answer.
func onWrites(rate int, op kv.Op, spoil func(s kv.Store, before kv.Entry, cmd kv.Command, r *kv.Result) error) *faulty {
	return &faulty{rate: rate, do: func(f *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
		before, _ := f.Store.Get(ctx, cmd.Key, kv.ReadOptions{})
		r, err := f.Store.Do(ctx, cmd)
		if err == nil && r.Applied && cmd.Op == op && f.due() {
			err = spoil(f.Store, before, cmd, &r)
		}
		return r, err
	}}
}

// unlinearizable are bugs that the check of a history must find.
var unlinearizable = []struct {
	name string
	says string // a part of what the check says
	open func(t testing.TB) []kv.Store
}{
	{"stale reads", "is not linearizable", func(t testing.TB) []kv.Store {
		before := map[string]kv.Entry{}
		latest := map[string]kv.Entry{}
		return []kv.Store{openFaulty(t, &faulty{
			rate: 20,
			do: func(f *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
				r, err := f.Store.Do(ctx, cmd)
				if r.Applied {
					before[cmd.Key] = latest[cmd.Key]
					latest[cmd.Key], _ = f.Store.Get(ctx, cmd.Key, kv.ReadOptions{})
				}
				return r, err
			},
			get: func(f *faulty, ctx context.Context, key string) (kv.Entry, error) {
				if old := before[key]; old.Revision > 0 && f.due() {
					return old, nil
				}
				return f.Store.Get(ctx, key, kv.ReadOptions{})
			},
		})}
	}},
	{"reads of a worker that lags", "is not linearizable", func(t testing.TB) []kv.Store {
		leader := openModel(t, Options{})
		t.Cleanup(func() { leader.Close() })
		seen := map[string]kv.Entry{}
		return []kv.Store{leader, openFaulty(t, &faulty{
			rate: 4,
			do: func(_ *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
				return leader.Do(ctx, cmd)
			},
			get: func(f *faulty, ctx context.Context, key string) (kv.Entry, error) {
				var err error
				if entry := seen[key]; entry.Revision == 0 || f.due() {
					seen[key], err = leader.Get(ctx, key, kv.ReadOptions{})
				}
				return seen[key], err
			},
		})}
	}},
	{"lost updates", "is not linearizable", func(t testing.TB) []kv.Store {
		return []kv.Store{openFaulty(t, onWrites(20, kv.OpSet, func(s kv.Store, before kv.Entry, cmd kv.Command, _ *kv.Result) error {
			undo := kv.Command{Op: kv.OpSet, Key: cmd.Key, Value: before.Value}
			if before.Revision == 0 {
				undo.Op = kv.OpDelete
			}
			_, err := s.Do(context.Background(), undo)
			return err
		}))}
	}},
	{"updates that were never made", "revision", func(t testing.TB) []kv.Store {
		return []kv.Store{openFaulty(t, &faulty{rate: 20, do: func(f *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
			if cmd.Op == kv.OpSet && cmd.Expect.Kind == kv.ExpectAny && f.due() {
				info, err := f.Info(ctx)
				return kv.Result{Applied: true, Revision: info.Revision + 1}, err
			}
			return f.Store.Do(ctx, cmd)
		}})}
	}},
	{"increments applied twice", "is not linearizable", func(t testing.TB) []kv.Store {
		return []kv.Store{openFaulty(t, onWrites(10, kv.OpIncrement, func(s kv.Store, _ kv.Entry, cmd kv.Command, _ *kv.Result) error {
			_, err := s.Do(context.Background(), cmd)
			return err
		}))}
	}},
	{"increments applied twice, the second time answered", "is not linearizable", func(t testing.TB) []kv.Store {
		return []kv.Store{openFaulty(t, onWrites(10, kv.OpIncrement, func(s kv.Store, _ kv.Entry, cmd kv.Command, r *kv.Result) (err error) {
			*r, err = s.Do(context.Background(), cmd)
			return err
		}))}
	}},
	{"done though refused", "is not linearizable", func(t testing.TB) []kv.Store {
		return []kv.Store{openFaulty(t, onWrites(20, kv.OpSet, func(_ kv.Store, _ kv.Entry, _ kv.Command, r *kv.Result) error {
			*r = kv.Result{}
			return kv.ErrOverloaded
		}))}
	}},
	{"swaps of another value", "is not linearizable", func(t testing.TB) []kv.Store {
		return []kv.Store{openFaulty(t, &faulty{rate: 10, do: func(f *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
			r, err := f.Store.Do(ctx, cmd)
			if err == nil && !r.Applied && cmd.Op == kv.OpCompareAndSwap && f.due() {
				return f.Store.Do(ctx, kv.Command{Op: kv.OpSet, Key: cmd.Key, Value: cmd.Value})
			}
			return r, err
		}})}
	}},
	{"a conflict that tells another revision", "is not linearizable", func(t testing.TB) []kv.Store {
		return []kv.Store{openFaulty(t, &faulty{rate: 5, do: func(f *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
			r, err := f.Store.Do(ctx, cmd)
			if OutcomeOf(err) == Conflict && r.Revision > 1 && f.due() {
				r.Revision--
			}
			return r, err
		}})}
	}},
	{"revisions counted key by key", "two mutations have one revision", func(t testing.TB) []kv.Store {
		stores := map[string]kv.Store{}
		of := func(key string) kv.Store {
			if stores[key] == nil {
				stores[key] = openFaulty(t, &faulty{})
			}
			return stores[key]
		}
		return []kv.Store{openFaulty(t, &faulty{
			do: func(_ *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
				return of(cmd.Key).Do(ctx, cmd)
			},
			get: func(_ *faulty, ctx context.Context, key string) (kv.Entry, error) {
				return of(key).Get(ctx, key, kv.ReadOptions{})
			},
		})}
	}},
	{"lost updates among unknown outcomes", "is not linearizable", func(t testing.TB) []kv.Store {
		lossy := onWrites(20, kv.OpSet, func(s kv.Store, before kv.Entry, cmd kv.Command, _ *kv.Result) error {
			_, err := s.Do(context.Background(), kv.Command{Op: kv.OpSet, Key: cmd.Key, Value: before.Value})
			return err
		})
		return []kv.Store{unsure(openFaulty(t, lossy), 20)}
	}},
}

// TestHistoriesOfBadStores has each bug found: a check that can't fail shows
// nothing.
func TestHistoriesOfBadStores(t *testing.T) {
	for _, bug := range unlinearizable {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			found := failures(t, check{run: func(e *env) {
				CheckLinearizable(e, bug.open(e), LinearizabilityOptions{Dir: dir, Patience: 10 * time.Second})
			}}, Config{})
			if len(found) != 1 || !strings.Contains(found[0], bug.says) {
				t.Fatalf("it said %q, want %q", found, bug.says)
			}
			f, err := os.Open(filepath.Join(dir, "history.json"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			h, err := ReadHistory(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Check(10 * time.Second); err == nil || !strings.HasPrefix(found[0], err.Error()) {
				t.Errorf("the history that was kept: %v; when it was recorded: %s", err, found[0])
			}
			if _, err := os.Stat(filepath.Join(dir, "history.html")); strings.HasPrefix(found[0], "key") && err != nil {
				t.Error(err)
			}
		})
	}
}

// unsure returns a store that says of each rate-th call that it timed out. The
// commands among them take effect at once, or never, or later.
func unsure(s kv.Store, rate int) kv.Store {
	var late []kv.Command
	return &faulty{Store: s, rate: rate,
		do: func(f *faulty, ctx context.Context, cmd kv.Command) (kv.Result, error) {
			unknown := f.due()
			if len(late) > 0 && f.n%7 == 0 {
				_, _ = f.Store.Do(context.Background(), late[0]) // nobody waits for it
				late = late[1:]
			}
			if !unknown {
				return f.Store.Do(ctx, cmd)
			}
			switch f.n / rate % 3 {
			case 0:
				_, _ = f.Store.Do(ctx, cmd) // nobody is told
			case 1:
				late = append(late, cmd)
			}
			return kv.Result{}, kv.ErrTimeout
		},
		get: func(f *faulty, ctx context.Context, key string) (kv.Entry, error) {
			if f.due() {
				return kv.Entry{}, context.DeadlineExceeded
			}
			return f.Store.Get(ctx, key, kv.ReadOptions{})
		},
	}
}

func TestHistoryWithUnknownOutcomes(t *testing.T) {
	s := unsure(openFaulty(t, &faulty{}), 10)
	h := CheckLinearizable(t, []kv.Store{s}, LinearizabilityOptions{Dir: t.TempDir(), Patience: 10 * time.Second})
	if n := h.Count(Unknown); n != len(h)/10 {
		t.Errorf("%d of %d outcomes are unknown, want a tenth", n, len(h))
	}
}

func TestHistoryOfNothing(t *testing.T) {
	s := openModel(t, Options{})
	s.Close()
	found := failures(t, check{run: func(e *env) {
		CheckLinearizable(e, []kv.Store{s}, LinearizabilityOptions{Operations: 10})
	}}, Config{})
	if len(found) != 1 || !strings.Contains(found[0], "40 were refused") {
		t.Errorf("a store that was closed: %q", found)
	}
}
