package kv

import (
	"errors"
	"fmt"
)

// The errors of a store. They come wrapped with what was asked and the rule
// that it broke, where there is more to say; match them with [errors.Is].
var (
	// ErrInvalidKey: the key, or a prefix of keys, breaks the rule of [ValidateKey].
	ErrInvalidKey = errors.New("invalid key")
	// ErrInvalidArgument: a part of the request is malformed.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrNotFound: no live key is there.
	ErrNotFound = errors.New("key not found")
	// ErrNotANumber: the value to increment is no signed 64-bit decimal.
	ErrNotANumber = errors.New("value is not a number")
	// ErrConflict: the revision that was expected is not the current one.
	ErrConflict = errors.New("revision conflict")
	// ErrCompacted: the store no longer holds the events from that revision on.
	ErrCompacted = errors.New("revision no longer held")
	// ErrValueTooLarge: the value is over the limit, or over what the bus carries.
	ErrValueTooLarge = errors.New("value too large")
	// ErrOverloaded: a queue is full; nothing was done.
	ErrOverloaded = errors.New("overloaded")
	// ErrUnavailable: the store can't be reached or can't serve; nothing was done.
	ErrUnavailable = errors.New("store unavailable")
	// ErrTimeout: it was not known in time; a write may or may not take effect.
	ErrTimeout = errors.New("timeout")
	// ErrQuotaExceeded: the write would pass the limit on keys or on bytes.
	ErrQuotaExceeded = errors.New("quota exceeded")
	// ErrInternal: anything else.
	ErrInternal = errors.New("internal error")
	// ErrNotText: the value is not valid UTF-8, and text was asked for.
	ErrNotText = errors.New("value is not UTF-8 text")
)

// ErrClosed is the [ErrUnavailable] of a store that was closed.
var ErrClosed = fmt.Errorf("%w: closed", ErrUnavailable)

// A LagError tells a watcher that it was too slow: the events of the revisions
// First to Last, of whatever keys, are lost to it. The watch goes on after it.
type LagError struct {
	First, Last uint64
}

func (e *LagError) Error() string {
	return fmt.Sprintf("watcher lags: %d revisions lost, %d to %d", e.Missed(), e.First, e.Last)
}

// Missed returns how many revisions were lost.
func (e *LagError) Missed() uint64 { return e.Last - e.First + 1 }
