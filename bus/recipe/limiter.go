package recipe

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"kvbus/kv"
)

// ErrForeign: the key of a limiter holds what no limiter wrote.
var ErrForeign = errors.New("key is used for something else")

// A Limiter allows so many uses in a window of time, counted over all who share
// the store. It holds no state; copy and share it freely.
type Limiter struct {
	store  kv.Store
	prefix string
	limit  int64
	window time.Duration
}

// NewLimiter returns a limiter of limit uses in a window, which are both above 0,
// for each of the keys that begin with prefix. All who limit the same thing must
// agree on the three. It fails with [kv.ErrInvalidArgument] and [kv.ErrInvalidKey].
func NewLimiter(store kv.Store, prefix string, limit int64, window time.Duration) (*Limiter, error) {
	if limit < 1 || window < 1 {
		return nil, fmt.Errorf("%w: a limit of %d in %v; both are above 0", kv.ErrInvalidArgument, limit, window)
	}
	if err := kv.ValidatePrefix(prefix); err != nil {
		return nil, err
	}
	return &Limiter{store: store, prefix: prefix, limit: limit, window: window}, nil
}

// A Decision is the answer of [Limiter.Allow].
type Decision struct {
	Allowed bool
	// Remaining is how many more uses the window allows.
	Remaining int64
	// Reset is when the window ends, by the clock of the store, in UTC.
	Reset time.Time
}

// RetryAfter returns how long the window lasts after now: 0 or more. It compares
// the clock of the store with that of now.
func (d Decision) RetryAfter(now time.Time) time.Duration { return max(0, d.Reset.Sub(now)) }

// Allow counts one use of name, whose key is the limiter's prefix and name, and
// says whether it is within the limit. The first use begins the window, and the
// first one after its end begins the next. Uses beyond the limit do not make the
// window longer.
//
// Allow is one request. If it fails with [kv.ErrTimeout] or [kv.ErrInternal], or
// because ctx ends, the use may have been counted; other errors count nothing. It is
// for the caller to say whether an error allows or denies.
//
// It fails with [ErrForeign] if the key holds no number, or one that never
// expires, which it has added to then.
func (l *Limiter) Allow(ctx context.Context, name string) (Decision, error) {
	key := l.prefix + name
	r, err := l.store.Do(ctx, kv.Command{Op: kv.OpIncrement, Key: key, Delta: 1, TTL: l.window, KeepTTL: true})
	switch {
	case errors.Is(err, kv.ErrNotANumber):
		return Decision{}, fmt.Errorf("%w: %w", ErrForeign, err)
	case err != nil:
		return Decision{}, fmt.Errorf("limit %q: %w", key, err)
	case r.ExpiresAt.IsZero():
		return Decision{}, fmt.Errorf("%w: key %q has no deadline", ErrForeign, key)
	}
	return Decision{
		Allowed:   r.Number <= l.limit,
		Remaining: max(0, l.limit-max(r.Number, l.limit-math.MaxInt64)), // others may have counted down
		Reset:     r.ExpiresAt,
	}, nil
}
