package recipe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"kvbus/kv"
)

const (
	// attempt bounds one request.
	attempt = 5 * time.Second
	// courtesy bounds what is done for others after the caller's time is over.
	courtesy = time.Second
	// grace is how long after a holder's deadline a waiter still lets the event
	// of its end come.
	grace = 250 * time.Millisecond
)

// Acquire takes the lock on key. While somebody else has it, it waits to see its
// end in the store's events, or, where none come, for the holder's deadline. It
// tries until ctx ends; the error then wraps that of ctx, and [ErrHeld] or what
// went wrong last. ctx bounds the wait only: the lock stays when ctx ends later.
//
// Those who wait are not served in the order in which they came.
//
// Where the answer to the last request did not come, Acquire takes up to a second
// more to find out whether it took the lock, and then gives it back.
func Acquire(ctx context.Context, store kv.Store, key string, opts LockOptions) (*Lock, error) {
	a, err := newAcquirer(store, key, opts)
	if err != nil {
		return nil, err
	}
	var lock *Lock
	err = persist(ctx, func(ctx context.Context) error {
		lock, err = a.try(ctx)
		for errors.Is(err, ErrHeld) && ctx.Err() == nil {
			lock, err = a.await(ctx)
		}
		return err
	})
	if err != nil {
		a.abandon(ctx)
		return nil, fmt.Errorf("lock %q: %w", key, err)
	}
	return lock, nil
}

// TryAcquire takes the lock on key with one request. It fails with [ErrHeld] if
// somebody else has it.
func TryAcquire(ctx context.Context, store kv.Store, key string, opts LockOptions) (*Lock, error) {
	a, err := newAcquirer(store, key, opts)
	if err != nil {
		return nil, err
	}
	lock, err := a.try(ctx)
	if err != nil {
		a.abandon(ctx)
		return nil, fmt.Errorf("lock %q: %w", key, err)
	}
	return lock, nil
}

// An acquirer tries to take a lock.
type acquirer struct {
	store  kv.Store
	key    string
	filter kv.Filter
	opts   LockOptions
	claim  claim
}

// A claim is one request to have the lock, which may be sent several times. Each
// has a value of its own, so that nobody takes the lock of another for theirs,
// not even one who asks a second time.
type claim struct {
	value, id string
	asked     time.Time // when it was sent first; zero before
	unknown   bool      // whether it was carried out
}

func newAcquirer(store kv.Store, key string, opts LockOptions) (*acquirer, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	filter, err := keyFilter(key)
	if err != nil {
		return nil, err
	}
	return &acquirer{store: store, key: key, filter: filter, opts: opts}, nil
}

// keyFilter returns the filter that selects one key.
func keyFilter(key string) (kv.Filter, error) {
	if err := kv.ValidateKey(key); err != nil {
		return kv.Filter{}, err
	}
	tokens := strings.Split(key, ".")
	for i, token := range tokens {
		if token == "" {
			tokens[i] = kv.EmptyToken
		}
	}
	return kv.ParseFilter(strings.Join(tokens, "."))
}

// try asks once. The claim lasts until its fate is known.
func (a *acquirer) try(ctx context.Context) (*Lock, error) {
	now := time.Now()
	if a.claim.id == "" || a.claim.unknown && now.Sub(a.claim.asked) >= min(a.opts.TTL, kv.DefaultRequestAge/2) {
		id := rand.Text()
		a.claim = claim{value: rand.Text() + " " + a.opts.Value, id: id, asked: now}
	}
	r, err := a.ask(ctx)
	if err != nil {
		if !a.claim.unknown {
			// Nothing was done: the next request may count its life from itself.
			a.claim = claim{}
		}
		return nil, err
	}
	c := a.claim
	a.claim = claim{}
	if !r.Applied {
		return nil, ErrHeld
	}
	if time.Since(c.asked) >= held(a.opts.TTL) {
		return nil, fmt.Errorf("%w: the lock was over when the answer came", kv.ErrTimeout)
	}
	return newLock(a.store, a.key, c, a.opts, r.Revision), nil
}

// ask sends the claim.
func (a *acquirer) ask(ctx context.Context) (kv.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	r, err := a.store.Do(ctx, kv.Command{
		Op:        kv.OpCompareAndSwap,
		Key:       a.key,
		Value:     a.claim.value,
		TTL:       a.opts.TTL,
		Expect:    kv.IfAbsent(),
		RequestID: a.claim.id,
	})
	if err != nil && ambiguous(err) {
		a.claim.unknown = true
	}
	return r, err
}

// abandon gives back what was perhaps taken. Its request is the one that was not
// answered, so that the answer tells.
func (a *acquirer) abandon(ctx context.Context) {
	if !a.claim.unknown {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), courtesy)
	defer cancel()
	if r, err := a.ask(ctx); err == nil && r.Applied {
		// It ends by itself if this fails.
		_, _ = a.store.Do(ctx, kv.Command{Op: kv.OpDelete, Key: a.key, Expect: kv.IfRevision(r.Revision)})
	}
}

// await waits until the lock seems free and takes it. It fails with [ErrHeld]
// when it is time to begin anew: the holder's deadline is over and no event came,
// or ctx has ended.
func (a *acquirer) await(ctx context.Context) (*Lock, error) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := a.store.Watch(watching, kv.WatchOptions{Filter: a.filter})
	// It may have become free before the watch began.
	if lock, err := a.try(ctx); !errors.Is(err, ErrHeld) {
		return lock, err
	}
	fallback := time.AfterFunc(withGrace(a.life(ctx)), cancel)
	defer fallback.Stop()
	for event, err := range events {
		switch _, lagged := errors.AsType[*kv.LagError](err); {
		case lagged:
		case err != nil && watching.Err() != nil:
			return nil, ErrHeld
		case err != nil:
			return nil, err
		case event.Kind == kv.EventSet || event.Kind == kv.EventTouch:
			fallback.Reset(withGrace(a.lifeAfter(event)))
			continue
		}
		if lock, err := a.try(ctx); !errors.Is(err, ErrHeld) {
			return lock, err
		}
	}
	return nil, ErrHeld
}

// withGrace adds the grace to a life, which may be as long as a duration can be.
func withGrace(life time.Duration) time.Duration { return min(life, math.MaxInt64-grace) + grace }

// life returns how long the holder has, as far as can be told: the clock of the
// store may be another, so it is the own TTL at most.
func (a *acquirer) life(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	entry, err := a.store.Get(ctx, a.key, kv.ReadOptions{})
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return 0
	case err != nil || entry.ExpiresAt.IsZero():
		return a.opts.TTL
	}
	return max(0, min(time.Until(entry.ExpiresAt), a.opts.TTL))
}

// lifeAfter returns how long the holder has from the event on.
func (a *acquirer) lifeAfter(event kv.Event) time.Duration {
	if event.ExpiresAt.IsZero() {
		return a.opts.TTL
	}
	return event.ExpiresAt.Sub(event.Time)
}
