package kv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// A Handle is a store with one method for each thing that one does with it.
// It is a small value; copy and share it freely between goroutines. Errors are
// those of the [Store] behind it.
type Handle struct {
	store Store
}

// Of returns a handle on store.
func Of(store Store) Handle { return Handle{store} }

// Store returns the store behind the handle.
func (h Handle) Store() Store { return h.store }

// A WriteOption adds something to a write. It fails with [ErrInvalidArgument] where
// the command would mean something else with it than was asked for.
type WriteOption func(*Command) error

// WithTTL gives the entry a life, at least 1ns. Without it a write removes any
// deadline.
func WithTTL(ttl time.Duration) WriteOption {
	return func(c *Command) error {
		if ttl == 0 { // which would mean for ever
			return refuseTTL(ttl)
		}
		c.TTL = ttl
		return nil
	}
}

// KeepTTL leaves a live key its deadline; [WithTTL] then counts only where the
// write creates the key.
func KeepTTL() WriteOption {
	return func(c *Command) error {
		c.KeepTTL = true
		return nil
	}
}

// AtRevision lets a set or a delete happen only if the key is at that revision,
// 0 for not there; otherwise it fails with [ErrConflict].
func AtRevision(revision uint64) WriteOption {
	return func(c *Command) error {
		if c.Expect.Kind != ExpectAny { // which would be dropped
			return fmt.Errorf("%w: %v with two expectations", ErrInvalidArgument, c.Op)
		}
		c.Expect = IfRevision(revision)
		return nil
	}
}

// WithRequestID makes the write safe to repeat with the same id; see [Store.Do].
// An empty id is refused.
func WithRequestID(id string) WriteOption {
	return func(c *Command) error {
		c.RequestID = id
		return c.validateRequestID() // an empty one would mean none
	}
}

func (h Handle) do(ctx context.Context, cmd Command, opts []WriteOption) (Result, error) {
	for _, opt := range opts {
		if err := opt(&cmd); err != nil {
			return Result{}, err
		}
	}
	return h.store.Do(ctx, cmd)
}

// Set writes value under key and returns the new revision.
func (h Handle) Set(ctx context.Context, key, value string, opts ...WriteOption) (uint64, error) {
	r, err := h.do(ctx, Command{Op: OpSet, Key: key, Value: value}, opts)
	return r.Revision, err
}

// CompareAndSwap writes value under key if expect holds, and says whether it
// did. The revision is the new one, or the current one if expect did not hold.
func (h Handle) CompareAndSwap(ctx context.Context, key string, expect Expectation, value string, opts ...WriteOption) (swapped bool, revision uint64, err error) {
	r, err := h.do(ctx, Command{Op: OpCompareAndSwap, Key: key, Value: value, Expect: expect}, opts)
	return r.Applied, r.Revision, err
}

// Increment adds delta to the number under key, saturating at both ends of
// int64, and returns the new number. A key that is not there counts as 0.
func (h Handle) Increment(ctx context.Context, key string, delta int64, opts ...WriteOption) (int64, error) {
	r, err := h.do(ctx, Command{Op: OpIncrement, Key: key, Delta: delta}, opts)
	return r.Number, err
}

// Delete removes key and says whether a live key was there.
func (h Handle) Delete(ctx context.Context, key string, opts ...WriteOption) (bool, error) {
	r, err := h.do(ctx, Command{Op: OpDelete, Key: key}, opts)
	return r.Applied, err
}

// Touch moves the deadline of key to ttl from now, or removes it if ttl is 0.
// It says whether a live key was there.
func (h Handle) Touch(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	r, err := h.store.Do(ctx, Command{Op: OpTouch, Key: key, TTL: ttl})
	return r.Applied, err
}

// Clear removes every key that starts with prefix and returns how many those were.
func (h Handle) Clear(ctx context.Context, prefix string) (int64, error) {
	r, err := h.store.Do(ctx, Command{Op: OpClear, Key: prefix})
	return r.Number, err
}

// Sweep removes what has expired and returns how many keys those were. Nobody
// needs to call it: the store does the same by itself.
func (h Handle) Sweep(ctx context.Context) (int64, error) {
	r, err := h.store.Do(ctx, Command{Op: OpSweep})
	return r.Number, err
}

// Get returns the live entry of key.
func (h Handle) Get(ctx context.Context, key string) (Entry, error) {
	return h.store.Get(ctx, key, ReadOptions{})
}

// GetText returns the value of key as text. It fails with [ErrNotText] if the
// value is not valid UTF-8.
func (h Handle) GetText(ctx context.Context, key string) (string, error) {
	e, err := h.Get(ctx, key)
	if err != nil {
		return "", err
	}
	return e.Text()
}

// Exists says whether key is live.
func (h Handle) Exists(ctx context.Context, key string) (bool, error) {
	_, err := h.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// TTL returns the time that key has left, by this process's clock; never is
// true if it has no deadline.
func (h Handle) TTL(ctx context.Context, key string) (left time.Duration, never bool, err error) {
	e, err := h.Get(ctx, key)
	if err != nil || e.ExpiresAt.IsZero() {
		return 0, err == nil, err
	}
	return max(0, time.Until(e.ExpiresAt)), false, nil
}

// Keys returns all live keys that start with prefix, sorted by their bytes.
func (h Handle) Keys(ctx context.Context, prefix string) ([]string, error) {
	page, err := h.store.Scan(ctx, Query{Prefix: prefix, KeysOnly: true})
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(page.Entries))
	for i, e := range page.Entries {
		keys[i] = e.Key
	}
	return keys, nil
}

// Entries iterates over what q selects, page by page: q.Limit is the size of a
// page, 1,000 if it is 0. Where the store can't answer with so many, as it fails
// with [ErrValueTooLarge], this page and those after it are smaller. Each page is of
// one revision; a later page may be of a later one.
func (h Handle) Entries(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		q := q // each iteration begins at the beginning
		if q.Limit == 0 {
			q.Limit = 1000
		}
		for {
			page, err := h.store.Scan(ctx, q)
			if errors.Is(err, ErrValueTooLarge) && q.Limit > 1 {
				q.Limit /= 2 // nothing of this page was given
				continue
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page.Entries {
				if !yield(e, nil) {
					return
				}
			}
			if q.Cursor = page.Cursor; q.Cursor == "" {
				return
			}
		}
	}
}

// Watch returns the events that opts selects, as [Store.Watch] does.
func (h Handle) Watch(ctx context.Context, opts WatchOptions) iter.Seq2[Event, error] {
	return h.store.Watch(ctx, opts)
}

// Len returns how many live keys the store holds.
func (h Handle) Len(ctx context.Context) (int64, error) {
	info, err := h.store.Info(ctx)
	return info.Keys, err
}

// Limits returns the limits in force.
func (h Handle) Limits(ctx context.Context) (Limits, error) {
	info, err := h.store.Info(ctx)
	return info.Limits, err
}

// SetLimits replaces the limits. Entries that are over a new one stay.
func (h Handle) SetLimits(ctx context.Context, limits Limits) error {
	_, err := h.store.Do(ctx, Command{Op: OpSetLimits, Limits: limits})
	return err
}
