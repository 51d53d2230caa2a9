package kv

import (
	"context"
	"fmt"
	"iter"
)

// A Store holds keys. All methods are safe for concurrent use.
//
// Every method fails with [ErrClosed] after Close, with [ErrUnavailable] if the
// store can't be reached and nothing was done, and with [ErrTimeout] or the
// context's error if the outcome was not known in time.
type Store interface {
	// Do carries out a command. Commands that one goroutine gives one after the
	// other take effect in that order.
	//
	// It fails with [ErrInvalidKey] or [ErrInvalidArgument] for a malformed
	// command, [ErrValueTooLarge] and [ErrQuotaExceeded] for a write over a
	// limit, [ErrNotANumber] for an increment of something else, and
	// [ErrConflict] if a set or a delete expects another revision; the store is
	// then as it was. A store that can't change its limits or sweep on demand
	// answers those two with [errors.ErrUnsupported].
	//
	// A command with a RequestID is carried out once. The store remembers what
	// came of it, for its operation and key, and answers each later command with
	// the same operation, key and id so, without another event, whatever has
	// happened to the key since: the same result, or an error that is the same
	// of [ErrConflict], [ErrNotANumber], [ErrValueTooLarge] and
	// [ErrQuotaExceeded]. If anything else but the trace is another in the later
	// command, it fails with [ErrInvalidArgument] and nothing is done. Outcomes
	// are forgotten as [Limits] say; errors other than those four are not
	// remembered.
	Do(ctx context.Context, cmd Command) (Result, error)

	// Get returns the live entry of key. It fails with [ErrNotFound] if there is
	// none, and with [ErrInvalidKey].
	Get(ctx context.Context, key string, opts ReadOptions) (Entry, error)

	// Scan returns the live entries that q selects, sorted by the bytes of their
	// keys, all of one revision however long it takes. It fails as [Query.Validate]
	// does, and with [ErrInvalidArgument] for a bad cursor.
	Scan(ctx context.Context, q Query) (Page, error)

	// Replay returns events from the ring of recent ones. It fails as
	// [ReplayQuery.Validate] does, and with [ErrCompacted] if q.After is older than
	// the ring, or newer than the store.
	Replay(ctx context.Context, q ReplayQuery) (Replay, error)

	// Watch returns the events that opts selects, in revision order, as they
	// happen. The starting point is fixed when Watch returns, not when the
	// iteration starts. A [*LagError] says that events were lost, and the watch
	// goes on; after any other error it is over: the context's error,
	// [ErrClosed], or [ErrCompacted] if the starting point is no longer held.
	// The sequence can be iterated once. After Close it may still give the events
	// that are held, before [ErrClosed].
	Watch(ctx context.Context, opts WatchOptions) iter.Seq2[Event, error]

	// Info describes the store.
	Info(ctx context.Context) (Info, error)

	// Close ends the store and its watches. Closing it again does nothing.
	Close() error
}

// Consistency is how fresh a read must be.
type Consistency uint8

// The consistencies of a read.
const (
	// DefaultConsistency is what the store was configured with; it is
	// Linearizable if nothing was.
	DefaultConsistency Consistency = iota
	// Linearizable reads see every command that was answered before they started.
	Linearizable
	// Eventual reads see what the worker that answers them has, which may lag.
	Eventual
)

// ReadOptions say how fresh a read must be. The zero value means the defaults.
type ReadOptions struct {
	Consistency Consistency
	// MinRevision asks for a state at least that new. A read that can't have
	// it within the store's patience fails with [ErrUnavailable].
	MinRevision uint64
}

// A Query selects live entries. The zero value selects all of them.
type Query struct {
	// Prefix is a raw prefix of the keys; Filter a wildcard over whole keys.
	// Both must hold.
	Prefix string
	Filter Filter
	// Limit bounds the number of entries; 0 means no limit.
	Limit int
	// MaxBytes bounds the sum of the sizes of the keys and the values returned;
	// 0 means no limit. The first entry is returned whatever its size.
	MaxBytes int
	// Cursor is where to go on: the Cursor of the page before.
	Cursor string
	// KeysOnly leaves the values out.
	KeysOnly bool
	ReadOptions
}

// Validate fails with [ErrInvalidKey] for a bad prefix, and with
// [ErrInvalidArgument] for a bound below 0.
func (q *Query) Validate() error { return validateSelection(q.Prefix, q.Limit, q.MaxBytes) }

func validateSelection(prefix string, limit, maxBytes int) error {
	if limit < 0 || maxBytes < 0 {
		return fmt.Errorf("%w: limit %d and at most %d bytes; both are 0 (no limit) or more", ErrInvalidArgument, limit, maxBytes)
	}
	return ValidatePrefix(prefix)
}

// A Page is the answer to a [Query].
type Page struct {
	Entries []Entry
	// Revision is the store's revision of which the entries are.
	Revision uint64
	// Cursor is where the next page starts; empty if there is no more.
	Cursor string
}

// A ReplayQuery selects recent events.
type ReplayQuery struct {
	// After is the revision after which to start.
	After uint64
	// Prefix and Filter are as in [Query].
	Prefix string
	Filter Filter
	// Limit bounds the number of events; 0 means no limit.
	Limit int
	// MaxBytes bounds the sum of the sizes of keys and values; 0 means no
	// limit. The first event is returned whatever its size.
	MaxBytes int
	ReadOptions
}

// Validate is [Query.Validate] for a replay.
func (q *ReplayQuery) Validate() error { return validateSelection(q.Prefix, q.Limit, q.MaxBytes) }

// A Replay is the answer to a [ReplayQuery].
type Replay struct {
	Events []Event
	// Revision is the revision up to which the answer is complete.
	Revision uint64
	// More says that there are later events; they come after Revision.
	More bool
}

// WatchOptions select events. The zero value selects all events from now on.
type WatchOptions struct {
	// Prefix and Filter are as in [Query].
	Prefix string
	Filter Filter
	Start  Start
}

// A Start is where a watch starts; the zero value means now.
type Start struct {
	revision uint64
	set      bool
}

// After starts a watch with the first event after that revision.
func After(revision uint64) Start { return Start{revision, true} }

// Revision returns the revision after which to start, and false for now.
func (s Start) Revision() (uint64, bool) { return s.revision, s.set }
