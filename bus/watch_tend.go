package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"kvbus/kv"
)

func (f *follower) notify(kind NoticeKind, err error) {
	if f.opts.Notify != nil {
		f.opts.Notify(Notice{Kind: kind, Revision: f.reached, Err: err})
	}
}

// heardOf takes a sign of life, and a time when it was there or was still to come.
// A later one might be after the end of that life.
func (f *follower) heardOf(at time.Time) {
	f.met(at)
	f.lives()
}

// met is heardOf for an answer whose events were not given yet.
func (f *follower) met(at time.Time) {
	if at.After(f.contact) {
		f.contact = at
	}
}

// lives tells that the watch is up to date again, where it was not.
func (f *follower) lives() {
	if f.stale {
		f.stale = false
		f.notify(NoticeLive, nil)
	}
}

// busyAudit is the shortest time between audits. A watch that is given more events
// than it remembers does not wait for longer.
const busyAudit = 5 * time.Second

func (f *follower) scheduleAudit(now time.Time) {
	f.nextAudit, f.busyAudit = now.Add(vary(f.opts.AuditInterval)), now.Add(busyAudit)
}

// vary returns a time around d, so that many watches don't ask at once.
func vary(d time.Duration) time.Duration {
	least := d - d/4
	return least + rand.N(min(d/2, math.MaxInt64-least)+1)
}

// hear looks at the last heartbeat. It comes before what was received is given: that
// may be of another life.
func (f *follower) hear(ctx context.Context) error {
	beat, at := f.queue.heard()
	if at.Equal(f.beatAt) {
		return nil
	}
	f.beatAt = at
	f.heardOf(at)
	if err := f.life.epoch(beat.Epoch, f.begun); err != nil {
		return err
	}
	if err := f.sameLife(ctx); err != nil {
		return err
	}
	f.newest = max(f.newest, beat.Revision)
	f.behind = beat.Revision < f.proven
	if f.tail.due.IsZero() && beat.Revision > f.reached {
		f.tail = tail{beat.Revision, time.Now().Add(tailGrace)}
	}
	return nil
}

// tend does what is due, and returns how long nothing will be. idle says that the
// queue is empty.
func (f *follower) tend(ctx context.Context, idle bool) (time.Duration, error) {
	now := time.Now()
	if due := f.tail.due; !due.IsZero() && idle && !now.Before(due) {
		if err := f.tailDue(ctx, now); err != nil {
			return 0, err
		}
	}
	if due := f.auditDue(); !due.IsZero() && !now.Before(due) {
		if err := f.audit(ctx); err != nil {
			return 0, err
		}
	}
	if now.Sub(f.contact) >= f.opts.Silence {
		f.life.doubt(f.contact)
		if err := f.fetch(ctx, f.reached); err != nil {
			return 0, fmt.Errorf("%w (%w)", err, errSilence)
		}
	}
	next := f.contact.Add(f.opts.Silence)
	for _, due := range []time.Time{f.tail.due, f.auditDue()} {
		if !due.IsZero() && due.Before(next) {
			next = due
		}
	}
	return time.Until(next), nil
}

// tailDue looks at a heartbeat that told of later events than the watch had, once
// these have had the time to come. A watch of all keys has lost what is missing.
// Any other has had all that was on its way to it.
func (f *follower) tailDue(ctx context.Context, now time.Time) error {
	revision := f.tail.revision
	// What is on its way through the subscription and the queue goes first.
	waiting, _, err := f.sub.Pending()
	delivered, _ := f.sub.Delivered() // fails as Pending does
	if err != nil || waiting > 0 || !f.queue.drained(delivered) {
		f.tail.due = now.Add(tailGrace)
		return nil //nolint:nilerror // the end of the subscription shows elsewhere
	}
	f.tail = tail{}
	if f.all {
		if f.reached < revision {
			return f.repair(ctx, errTail)
		}
		return nil
	}
	if now.Sub(f.subscribed)-tailGrace >= f.opts.Settle {
		f.reached = max(f.reached, revision)
	}
	return nil
}

// auditDue returns when an audit is due; the zero time if none is.
func (f *follower) auditDue() time.Time {
	if f.behind {
		return f.nextAudit // a publisher that lags, or a store that has lost its memory
	}
	if f.all || f.newest <= f.audited {
		return time.Time{}
	}
	due := f.nextAudit
	if settled := f.subscribed.Add(f.opts.Settle); !f.settled && settled.Before(due) {
		due = settled
	}
	if f.seen.nearlyForgets(f.audited) && f.busyAudit.Before(due) {
		due = f.busyAudit
	}
	return due
}

// audit compares what was given with what the store holds. Until the subscription
// is known to all servers, events may pass it by; so the first audit comes soon
// after that.
func (f *follower) audit(ctx context.Context) error {
	defer func() { f.scheduleAudit(time.Now()) }()
	f.settled = time.Since(f.subscribed) >= f.opts.Settle
	err := f.fetch(ctx, f.audited)
	if err == nil && f.forgotten > 0 {
		f.forgotten = 0
		f.notify(NoticeUnaudited, errBusy)
	}
	if !errors.Is(err, kv.ErrCompacted) || errors.Is(err, errNewLife) || errors.Is(err, errOutOfOrder) || f.reached == f.audited {
		return err
	}
	// Nothing tells of a loss. What comes after reached has not been missed.
	unaudited := err
	if err := f.fetch(ctx, f.reached); err != nil {
		return err
	}
	f.notify(NoticeUnaudited, unaudited)
	f.audited, f.forgotten = f.reached, 0
	return nil
}

// pause waits for a signal of the queue, for the end, or for a time.
func (f *follower) pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(max(0, wait))
	defer timer.Stop()
	select {
	case <-f.queue.wake:
		return nil
	case <-timer.C:
		return nil
	case <-f.closed:
		return kv.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
