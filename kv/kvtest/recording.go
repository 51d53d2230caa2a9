package kvtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"kvbus/kv"
)

// A Recorder records what clients do with stores that share their state: one
// store, several workers of a cluster, or several clients of a bus. It is safe
// for concurrent use.
type Recorder struct {
	start time.Time

	mu      sync.Mutex
	history History
	clients int
}

// NewRecorder returns a recorder with an empty history. The keys that will be
// used must not be there yet.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Client returns a store that does what the given one does and records its
// commands on one key and its gets, as those of a new client. Give each
// goroutine one of its own, or their operations can't be told apart.
//
// What has no place in a history it refuses with [kv.ErrInvalidArgument]: lives,
// the clearing of keys, and commands that may be given twice.
func (r *Recorder) Client(store kv.Store) kv.Store {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients++
	return &recorded{Store: store, recorder: r, client: r.clients - 1}
}

// History returns what was recorded so far, in the order of the answers. A call
// that is under way is missing, so wait for all of them first.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.history)
}

func (r *Recorder) add(op Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, op)
}

// recorded is the store of one client.
type recorded struct {
	kv.Store
	recorder *Recorder
	client   int
}

// Do implements [kv.Store].
func (c *recorded) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	if cmd.Op == kv.OpClear || cmd.TTL != 0 || cmd.RequestID != "" {
		return kv.Result{}, fmt.Errorf("%w: a history has no place for %s", kv.ErrInvalidArgument, describe(cmd))
	}
	if !cmd.Op.OnKey() {
		return c.Store.Do(ctx, cmd)
	}
	op := Operation{
		Client: c.client, Op: cmd.Op.String(),
		Key: cmd.Key, Value: cmd.Value, Delta: cmd.Delta, Expect: cmd.Expect,
	}
	op.Call = time.Since(c.recorder.start)
	result, err := c.Store.Do(ctx, cmd)
	op.Return = time.Since(c.recorder.start)
	op.Applied, op.Revision, op.Number = result.Applied, result.Revision, result.Number
	c.finish(op, err)
	return result, err
}

// Get implements [kv.Store].
func (c *recorded) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	op := Operation{Client: c.client, Op: opGet, Key: key}
	op.Call = time.Since(c.recorder.start)
	entry, err := c.Store.Get(ctx, key, opts)
	op.Return = time.Since(c.recorder.start)
	op.Read, op.Revision = entry.Value, entry.Revision
	c.finish(op, err)
	return entry, err
}

func (c *recorded) finish(op Operation, err error) {
	op.Outcome = OutcomeOf(err)
	if err != nil {
		op.Error = err.Error()
	}
	c.recorder.add(op)
}
