package kvtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"kvbus/kv"
)

// LinearizabilityOptions say what [CheckLinearizable] does. The zero value means
// the defaults.
type LinearizabilityOptions struct {
	// Clients work at the same time, on the stores in turn; 4, or one for each
	// store if those are more.
	Clients int
	// Keys is on how many keys they meet; 3.
	Keys int
	// Prefix is that of the keys, none of which may be there; "linearizable.".
	Prefix string
	// Operations is how many each client does; 200.
	Operations int
	// Duration is the time over which each client spreads its operations; if
	// zero, it goes on as soon as it is answered.
	Duration time.Duration
	// Timeout bounds one operation; 5s.
	Timeout time.Duration
	// Consistency of the reads. With [kv.Eventual] the check finds them out.
	Consistency kv.Consistency
	// Seed is that of the operations, though not of how they interleave; if
	// zero, one is picked.
	Seed uint64
	// Patience bounds the check of the history; 30s.
	Patience time.Duration
	// Dir is where the history of a failure is kept. If empty, it is the test's
	// directory for artifacts where go test keeps those, else a new one among
	// the temporary ones.
	Dir string
}

func (o *LinearizabilityOptions) setDefaults(stores int) {
	o.Clients = cmp.Or(o.Clients, max(4, stores))
	o.Keys = cmp.Or(o.Keys, 3)
	o.Prefix = cmp.Or(o.Prefix, "linearizable.")
	o.Operations = cmp.Or(o.Operations, 200)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.Seed = cmp.Or(o.Seed, rand.Uint64())
	o.Patience = cmp.Or(o.Patience, 30*time.Second)
}

// CheckLinearizable has clients work on stores that share their state, and fails
// t if what they were answered is not linearizable, as [CheckHistory] does. It
// returns the history, for those who want to know how many were answered; one
// without an answered write and an answered read fails, because it shows
// nothing. It calls none of t's methods that have to be called from the test's
// own goroutine.
func CheckLinearizable(t testing.TB, stores []kv.Store, opts LinearizabilityOptions) History {
	t.Helper()
	opts.setDefaults(len(stores))
	h := RecordHistory(t.Context(), stores, opts)
	CheckHistory(t, h, opts)
	var reads, writes bool
	for i := range h {
		reads = reads || h[i].Outcome == Done && h[i].Op == opGet
		writes = writes || h[i].Applied
	}
	if !reads || !writes {
		t.Errorf("of %d operations %d were refused and %d had no answer; the others show too little",
			len(h), h.Count(Refused), h.Count(Unknown))
	}
	if t.Failed() {
		t.Logf("the seed of the operations was %d", opts.Seed)
	}
	return h
}

// RecordHistory is the part of [CheckLinearizable] that works on the stores. It
// returns when all clients are done or ctx is.
func RecordHistory(ctx context.Context, stores []kv.Store, opts LinearizabilityOptions) History {
	opts.setDefaults(len(stores))
	recorder := NewRecorder()
	var group sync.WaitGroup
	for i := range opts.Clients {
		w := &worker{
			LinearizabilityOptions: opts,
			store:                  recorder.Client(stores[i%len(stores)]),
			number:                 i,
			rand:                   rand.New(rand.NewPCG(opts.Seed, uint64(i))),
			known:                  map[string]kv.Entry{},
		}
		group.Go(func() { w.work(ctx) })
	}
	group.Wait()
	return recorder.History()
}

// A worker is one client of a workload.
type worker struct {
	LinearizabilityOptions
	store  kv.Store
	number int
	rand   *rand.Rand
	known  map[string]kv.Entry // the last that it was told of each key
}

func (w *worker) work(ctx context.Context) {
	start := time.Now()
	for i := range w.Operations {
		wait(ctx, time.Until(start.Add(w.Duration*time.Duration(i)/time.Duration(w.Operations))))
		if ctx.Err() != nil {
			return
		}
		runtime.Gosched() // or one client does all of its part before the next begins
		key := fmt.Sprint(w.Prefix, w.rand.IntN(w.Keys))
		if OutcomeOf(w.operate(ctx, key, i)) == Refused {
			wait(ctx, pause) // a store that can't serve is not helped by haste
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// operate does one operation and takes note of what it tells.
func (w *worker) operate(ctx context.Context, key string, i int) error {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	chance := w.rand.IntN(100)
	if chance < 35 {
		entry, err := w.store.Get(ctx, key, kv.ReadOptions{Consistency: w.Consistency})
		if err == nil || errors.Is(err, kv.ErrNotFound) {
			w.known[key] = entry
		}
		return err
	}
	cmd := w.command(chance, key, i)
	result, err := w.store.Do(ctx, cmd)
	if err == nil && result.Applied {
		entry := kv.Entry{Value: cmd.Value, Revision: result.Revision}
		switch cmd.Op {
		case kv.OpIncrement:
			entry.Value = fmt.Sprint(result.Number)
		case kv.OpDelete:
			entry = kv.Entry{}
		}
		w.known[key] = entry
	}
	return err
}

// command returns a write. Most values are numbers, no two clients set the same
// one, and expectations are what the client knows, so that many of them hold.
func (w *worker) command(chance int, key string, i int) kv.Command {
	value := fmt.Sprint((w.number+1)*1_000_000 + i*100)
	if w.rand.IntN(16) == 0 {
		value = "text " + value
	}
	known := w.known[key]
	atRevision := kv.IfRevision(known.Revision)
	switch {
	case chance < 50:
		return kv.Command{Op: kv.OpSet, Key: key, Value: value}
	case chance < 57:
		return kv.Command{Op: kv.OpSet, Key: key, Value: value, Expect: atRevision}
	case chance < 67:
		return kv.Command{Op: kv.OpCompareAndSwap, Key: key, Value: value, Expect: kv.IfValue(known.Value)}
	case chance < 74:
		return kv.Command{Op: kv.OpCompareAndSwap, Key: key, Value: value, Expect: atRevision}
	case chance < 78:
		return kv.Command{Op: kv.OpCompareAndSwap, Key: key, Value: value, Expect: kv.IfAbsent()}
	case chance < 92:
		return kv.Command{Op: kv.OpIncrement, Key: key, Delta: 1 + w.rand.Int64N(3)}
	case chance < 94:
		return kv.Command{Op: kv.OpTouch, Key: key}
	case chance < 98:
		return kv.Command{Op: kv.OpDelete, Key: key}
	}
	return kv.Command{Op: kv.OpDelete, Key: key, Expect: atRevision}
}

// checkLinearizable is the check of the suite: without faults, all must be
// answered.
func checkLinearizable(e *env) {
	s := e.open()
	h := CheckLinearizable(e, []kv.Store{s.Store()}, LinearizabilityOptions{Operations: 300})
	if n := h.Count(Refused, Unknown); n > 0 {
		e.Errorf("%d of %d operations were refused or not answered in time", n, len(h))
	}
}
