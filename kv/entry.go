package kv

import (
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"
)

// An Entry is a live key as a read found it.
type Entry struct {
	Key   string
	Value string
	// Revision is the revision of the last mutation of the key, at least 1.
	Revision uint64
	// ExpiresAt is the deadline, in UTC; zero where the entry has none.
	ExpiresAt time.Time
}

// Expired reports whether the entry's deadline has passed at now.
func (e Entry) Expired(now time.Time) bool {
	return !e.ExpiresAt.IsZero() && !e.ExpiresAt.After(now)
}

// Text returns the value as text. It fails with [ErrNotText] if the value is
// not valid UTF-8.
func (e Entry) Text() (string, error) {
	if !utf8.ValidString(e.Value) {
		return "", fmt.Errorf("%w: key %q", ErrNotText, e.Key)
	}
	return e.Value, nil
}

// An EventKind says what a mutation did. Its text form is the one on the wire.
type EventKind uint8

// The kinds of mutations.
const (
	// EventSet: the key has a new value, and perhaps a new deadline.
	EventSet EventKind = iota + 1
	// EventDelete: the key was removed by a command.
	EventDelete
	// EventExpire: the key was removed because its deadline passed.
	EventExpire
	// EventTouch: the deadline moved, the value is as it was.
	EventTouch
)

var eventKinds = [...]string{EventSet: "SET", EventDelete: "DELETE", EventExpire: "EXPIRE", EventTouch: "TOUCH"}

// String returns the wire form: SET, DELETE, EXPIRE or TOUCH.
func (k EventKind) String() string {
	if k == 0 || int(k) >= len(eventKinds) {
		return fmt.Sprintf("EventKind(%d)", uint8(k))
	}
	return eventKinds[k]
}

// ParseEventKind is the inverse of [EventKind.String]. It fails with
// [ErrInvalidArgument].
func ParseEventKind(s string) (EventKind, error) {
	for k, name := range eventKinds {
		if name == s && name != "" {
			return EventKind(k), nil
		}
	}
	return 0, fmt.Errorf("%w: event kind %q is none of SET, DELETE, EXPIRE, TOUCH", ErrInvalidArgument, s)
}

// An Event is one mutation.
type Event struct {
	Kind EventKind
	Key  string
	// Value is the new value; empty where the key is gone or only its
	// deadline moved.
	Value string
	// Revision is the store's revision after the mutation: the next event, of
	// whatever key, has the next one.
	Revision uint64
	// PreviousRevision is the revision of the key before the mutation, 0 where
	// the key was not there.
	PreviousRevision uint64
	// Time is when the mutation took effect, in UTC.
	Time time.Time
	// ExpiresAt is the deadline of the entry, in UTC; zero where it has none.
	ExpiresAt time.Time
	// Trace is the trace context of the command that made the mutation.
	Trace Trace
}

// Trace is a W3C trace context, carried from a command to its events; zero for none.
type Trace struct {
	Parent, State string
}

// Limits bound a store. Zero means no limit, where nothing else is said.
type Limits struct {
	// MaxKeys is the number of live keys; a write beyond it fails only if it
	// would add a key.
	MaxKeys int64 `json:"max_keys"`
	// MaxValueSize is the size of one value, in bytes.
	MaxValueSize int64 `json:"max_value_size"`
	// MaxBytes is the sum of the sizes of all live keys and values; a write
	// beyond it fails only if it would add to the sum.
	MaxBytes int64 `json:"max_bytes"`
	// MaxRequestIDs is the number of the latest outcomes of commands with a
	// [Command.RequestID] that are remembered, and MaxRequestAge for how long
	// each is, in nanoseconds. Here, zero means [DefaultRequestIDs] and
	// [DefaultRequestAge].
	MaxRequestIDs int64         `json:"max_request_ids"`
	MaxRequestAge time.Duration `json:"max_request_age"`
}

// LogValue implements [slog.LogValuer], so that a log has the age with its unit.
func (l Limits) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int64("max_keys", l.MaxKeys),
		slog.Int64("max_value_size", l.MaxValueSize),
		slog.Int64("max_bytes", l.MaxBytes),
		slog.Int64("max_request_ids", l.MaxRequestIDs),
		slog.Duration("max_request_age", l.MaxRequestAge),
	)
}

// The window in which a command with a request id can be repeated, where the
// limits set no other.
const (
	DefaultRequestIDs = 65_536
	DefaultRequestAge = 2 * time.Minute
)

// RequestWindow returns MaxRequestIDs and MaxRequestAge, or the defaults in
// their place.
func (l Limits) RequestWindow() (ids int64, age time.Duration) {
	ids, age = l.MaxRequestIDs, l.MaxRequestAge
	if ids <= 0 {
		ids = DefaultRequestIDs
	}
	if age <= 0 {
		age = DefaultRequestAge
	}
	return ids, age
}

// DefaultLimits are the limits of a store for which none were set: 10,000 keys
// of at most 1 MiB each.
func DefaultLimits() Limits {
	return Limits{MaxKeys: 10_000, MaxValueSize: 1 << 20}
}

// Validate fails with [ErrInvalidArgument] if a limit is negative.
func (l Limits) Validate() error {
	for _, limit := range []struct {
		name  string
		value int64
	}{{"max_keys", l.MaxKeys}, {"max_value_size", l.MaxValueSize}, {"max_bytes", l.MaxBytes}, {"max_request_ids", l.MaxRequestIDs}, {"max_request_age", int64(l.MaxRequestAge)}} {
		if limit.value < 0 {
			return fmt.Errorf("%w: limit %s is %d; it is 0 or more", ErrInvalidArgument, limit.name, limit.value)
		}
	}
	return nil
}

// Info describes a store at one moment.
type Info struct {
	// Store is the kind of the store, such as "memory".
	Store string `json:"store"`
	// Clustered says whether several workers can share the store's state.
	Clustered bool `json:"clustered"`
	// Durable says whether the store survives a restart of its process.
	Durable bool `json:"durable"`
	// Revision is the revision of the last mutation, 0 before the first.
	Revision uint64 `json:"revision"`
	// OldestRevision is the revision of the oldest event held for replay; it is
	// Revision+1 where none is held.
	OldestRevision uint64 `json:"oldest_revision"`
	// Keys counts the live keys, Bytes the sizes of their keys and values.
	Keys  int64 `json:"keys"`
	Bytes int64 `json:"bytes"`
	// Limits are those in force.
	Limits Limits `json:"limits"`
	// Replicas is the number of servers that hold the log of a replicated store,
	// and LogPosition the sequence of the last record of it that this worker has
	// applied; both are 0 where there is no log.
	Replicas    int    `json:"replicas"`
	LogPosition uint64 `json:"log_position"`
	// SyncAlways says whether an answer waits until the disks of the log have
	// what it tells.
	SyncAlways bool `json:"sync_always"`
}
