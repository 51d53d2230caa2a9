package recipe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"kvbus/kv"
)

// The life of a lock that is not renewed.
const (
	DefaultTTL = 30 * time.Second
	MinTTL     = 100 * time.Millisecond
)

// The errors of locks and elections, beside those of the store.
var (
	// ErrHeld: somebody else has the lock.
	ErrHeld = errors.New("lock is held")
	// ErrLost: the lock was lost while it was thought to be held.
	ErrLost = errors.New("lock is lost")
	// ErrUnlocked: the lock was given back.
	ErrUnlocked = errors.New("lock is unlocked")
)

// LockOptions configure a lock. The zero value means the defaults.
type LockOptions struct {
	// TTL is how long the lock stays taken when its holder is gone, at least
	// MinTTL; 0 means DefaultTTL. The holder renews it three times as often. It
	// should outlast what the service needs for a failover.
	TTL time.Duration
	// Value is for others to read, such as the name of the holder. In the entry
	// it comes after a mark of 26 characters and a space.
	Value string
}

func (o LockOptions) withDefaults() (LockOptions, error) {
	o.TTL = cmp.Or(o.TTL, DefaultTTL)
	if o.TTL < MinTTL {
		return o, fmt.Errorf("%w: a lock of %v; it is %v or more", kv.ErrInvalidArgument, o.TTL, MinTTL)
	}
	return o, nil
}

// A Lock is a lock that was taken. It is renewed until it is lost or unlocked;
// who has it must call [Lock.Unlock] in the end. Its methods are safe for
// concurrent use.
type Lock struct {
	store kv.Store
	key   string
	value string // nobody else ever writes it
	id    string
	ttl   time.Duration
	token uint64

	stop    context.CancelFunc
	stopped chan struct{} // closed when the lock is not renewed any more
	lost    chan struct{}

	mu       sync.Mutex
	revision uint64 // of the entry, as far as is known
	deadline time.Time
	alarm    *time.Timer
	gone     bool      // from the store
	released bool      // by Unlock
	doubted  time.Time // when a delete was sent first that may have been carried out; zero if none was
	trouble  error     // of the last renewal; nil if it was well
	err      error     // why the lock is not held; nil while it is
}

// held is how long a holder relies on a lock: not up to the end, because clocks
// do not run equally fast and timers are late.
func held(ttl time.Duration) time.Duration { return ttl - ttl/100 }

// newLock starts to renew a lock that was asked for at a time.
func newLock(store kv.Store, key string, c claim, opts LockOptions, token uint64) *Lock {
	ctx, stop := context.WithCancel(context.Background())
	l := &Lock{
		store:    store,
		key:      key,
		value:    c.value,
		id:       c.id,
		ttl:      opts.TTL,
		token:    token,
		stop:     stop,
		stopped:  make(chan struct{}),
		lost:     make(chan struct{}),
		revision: token,
		deadline: c.asked.Add(held(opts.TTL)),
	}
	l.mu.Lock()
	l.alarm = time.AfterFunc(time.Until(l.deadline), func() { _ = l.Err() })
	l.mu.Unlock()
	go l.renew(ctx, c.asked)
	return l
}

// Token returns the fencing token: the revision at which the lock was taken. It
// stays the same while the lock is held, and a later holder has a higher one.
func (l *Lock) Token() uint64 { return l.token }

// Lost returns a channel that is closed when the lock is lost, and at the latest
// when 99% of the TTL are over since the last renewal that succeeded was asked
// for, by the monotonic clock. It is not closed by [Lock.Unlock].
func (l *Lock) Lost() <-chan struct{} { return l.lost }

// Err returns nil while the lock is held, then [ErrLost], with the reason, or
// [ErrUnlocked]. It looks at the clock, so that it tells a loss even before
// whoever waits for it could be woken.
func (l *Lock) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && !time.Now().Before(l.deadline) {
		reason := context.DeadlineExceeded
		if l.trouble != nil {
			reason = l.trouble
		}
		l.lose(fmt.Errorf("not renewed in time: %w", reason))
	}
	return l.err
}

// lose is called with the mutex held.
func (l *Lock) lose(reason error) {
	if l.err != nil {
		return
	}
	l.err = fmt.Errorf("%w: %w", ErrLost, reason)
	l.alarm.Stop()
	l.stop()
	close(l.lost)
}

// renew renews the lock until it is lost or unlocked. A renewal that failed is
// tried again after a short while.
func (l *Lock) renew(ctx context.Context, asked time.Time) {
	defer close(l.stopped)
	interval, pause := l.ttl/3, min(l.ttl/30, time.Second)
	timer := time.NewTimer(time.Until(asked.Add(interval)))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		asked := time.Now()
		err := l.renewOnce(ctx, asked, interval/2)
		if err == nil {
			timer.Reset(time.Until(asked.Add(interval)))
		} else {
			timer.Reset(pause)
		}
	}
}

// renewOnce writes the value again, where it still is: that can't revive a lock
// that is over, nor take one that is another's, however late the request comes.
func (l *Lock) renewOnce(ctx context.Context, asked time.Time, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := l.store.Do(ctx, kv.Command{
		Op:     kv.OpCompareAndSwap,
		Key:    l.key,
		Value:  l.value,
		TTL:    l.ttl,
		Expect: kv.IfValue(l.value),
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.trouble = err
	switch {
	case err != nil:
		return err
	case !r.Applied:
		l.gone = true
		l.lose(errGone)
		return l.err
	}
	l.revision = r.Revision
	if deadline := asked.Add(held(l.ttl)); time.Now().Before(l.deadline) {
		l.deadline = deadline
		l.alarm.Reset(time.Until(deadline))
	}
	return nil
}

var errGone = errors.New("it is not in the store any more")

// Unlock gives the lock back, and lets those who wait have it at once. It
// removes nothing that is another's. It returns nil if the lock was held until it
// was given back, and [ErrLost] if it was not, also where it ended while the service
// could not be asked. To tell, it relies on the store to remember a request for a
// minute, as by default it does. Where no answer came, and the service could not be
// asked again within a minute, it can't tell: it returns nil if the lock is not there.
//
// While the service can't be asked Unlock tries again, until ctx ends and for the
// TTL at most: after that the lock is over anyway. It then returns the error of
// the last attempt and can be called again. A second call after one that
// succeeded returns nil.
func (l *Lock) Unlock(ctx context.Context) error {
	lost := l.Err()
	l.mu.Lock()
	if l.err == nil {
		l.err = ErrUnlocked
		l.alarm.Stop()
	}
	l.mu.Unlock()
	l.stop()
	<-l.stopped

	if errors.Is(lost, ErrLost) {
		// What may be left in the store ends by itself; this is a courtesy.
		ctx, cancel := context.WithTimeout(ctx, courtesy)
		defer cancel()
		_ = l.release(ctx)
		return lost
	}
	ctx, cancel := context.WithTimeout(ctx, l.ttl)
	defer cancel()
	if err := persist(ctx, l.release); err != nil {
		return fmt.Errorf("unlock %q: %w", l.key, err)
	}
	return nil
}

// release deletes the entry if it is this lock's.
func (l *Lock) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	for {
		l.mu.Lock()
		revision, gone, released := l.revision, l.gone, l.released
		l.mu.Unlock()
		switch {
		case released:
			return nil
		case gone:
			return fmt.Errorf("%w: %w", ErrLost, errGone)
		}
		asked := time.Now()
		_, err := l.store.Do(ctx, kv.Command{
			Op:        kv.OpDelete,
			Key:       l.key,
			Expect:    kv.IfRevision(revision),
			RequestID: l.id + "." + strconv.FormatUint(revision, 10),
		})
		if !errors.Is(err, kv.ErrConflict) {
			l.mu.Lock()
			l.released = err == nil
			if err != nil && ambiguous(err) && !isAny(err, kv.ErrUnavailable, kv.ErrOverloaded) && l.doubted.IsZero() {
				l.doubted = asked
			}
			l.mu.Unlock()
			return err
		}
		l.mu.Lock()
		if asked.Sub(l.doubted) < kv.DefaultRequestAge/2 {
			l.doubted = time.Time{} // it is remembered: it was not carried out
		}
		l.mu.Unlock()
		// The answer to a renewal may not have come.
		entry, err := l.store.Get(ctx, l.key, kv.ReadOptions{Consistency: kv.Linearizable})
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		l.mu.Lock()
		switch {
		case err == nil && entry.Value == l.value:
			l.revision, l.doubted = max(l.revision, entry.Revision), time.Time{}
		case l.doubted.IsZero():
			l.gone = true
		default:
			l.released = true
		}
		l.mu.Unlock()
	}
}

// WithLock takes the lock, waiting for it as [Acquire] does, calls f, and gives
// the lock back. The context of f ends with ctx, and when the lock is lost; its
// cause is then [ErrLost]. f gets the fencing token.
//
// WithLock returns the error of f. Where that is nil it returns [ErrLost] if the
// lock was lost before f returned. That the lock could not be given back is no
// error; it ends by itself.
func WithLock(ctx context.Context, store kv.Store, key string, opts LockOptions, f func(ctx context.Context, token uint64) error) (err error) {
	l, err := Acquire(ctx, store, key, opts)
	if err != nil {
		return err
	}
	held, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-l.Lost():
			cancel(l.Err())
		case <-held.Done():
		}
	})
	defer func() {
		cancel(nil)
		watch.Wait()
		// The caller's context may be over, and that is no reason to keep the lock.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), courtesy)
		defer cancel()
		if failed := l.Unlock(ctx); err == nil && errors.Is(failed, ErrLost) {
			err = failed
		}
	}()
	return f(held, l.Token())
}
