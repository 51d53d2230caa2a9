package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kvbus/kv"
)

// firstRetry and lastRetry bound the pause before a request is sent again.
const firstRetry, lastRetry = 10 * time.Millisecond, time.Second

// lastPatience bounds how long an attempt waits, where AttemptTimeout is not longer.
const lastPatience = time.Minute

// call makes a request, and makes it again where that does no harm, until the
// context ends.
func (c *Client) call(ctx context.Context, r *request) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.leave()
	var doubt doubt
	var refusal error // of the last attempt that was refused
	patience, longest := c.opts.AttemptTimeout, max(c.opts.AttemptTimeout, lastPatience)
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		start, back := time.Now(), c.calls.back()
		fate, err := c.attempt(ctx, r, patience)
		switch fate {
		case answered:
			return err
		case refused:
			refusal = err
		case unknown:
			doubt.add(start, err)
			patience += min(patience, longest-patience)
		}
		if !c.mayRetry(r, err, &doubt) || !c.rest(ctx, pause, back) {
			if r.harmless && r.window == 0 && refusal != nil && ctx.Err() != nil {
				// A read has no outcome to be in doubt about.
				return fmt.Errorf("%w: %w", refusal, ctx.Err())
			}
			return giveUp(ctx, r, err, &doubt)
		}
	}
}

// A doubt is about the attempts of which it is not known what came of them.
type doubt struct {
	since time.Time // when the first of them began; zero if there is none
	cause error     // of the last one
}

func (d *doubt) add(start time.Time, cause error) {
	if d.since.IsZero() {
		d.since = start
	}
	d.cause = cause
}

// mayRetry reports whether a request that was not answered may be sent again.
func (c *Client) mayRetry(r *request, err error, d *doubt) bool {
	for _, lasting := range []error{kv.ErrClosed, ErrForbidden, ErrNoInbox, kv.ErrValueTooLarge, kv.ErrInternal} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	switch {
	case c.opts.NoRetry, r.once:
		return false
	case d.since.IsZero(): // nothing was done
		return true
	default:
		return r.harmless && (r.window == 0 || time.Since(d.since) < r.window)
	}
}

// rest waits for about a time, or for the connection to come back. It returns
// false if there is no time left for another attempt.
func (c *Client) rest(ctx context.Context, pause time.Duration, back <-chan struct{}) bool {
	pause = vary(pause)
	if deadline, _ := ctx.Deadline(); time.Until(deadline) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-back:
	case <-c.closed:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// giveUp returns the error of a request that is not sent again.
func giveUp(ctx context.Context, r *request, err error, d *doubt) error {
	ended, subject := ctx.Err(), r.msg.Subject
	switch {
	case d.since.IsZero() && ended == nil:
		return err
	case d.since.IsZero():
		return fmt.Errorf("%w: %w", err, ended)
	case ended != nil:
		return fmt.Errorf("%w: %s: %w", kv.ErrTimeout, subject, ended)
	case r.harmless && r.window == 0:
		return readError(subject, err)
	case errors.Is(d.cause, kv.ErrTimeout):
		return d.cause
	default:
		// It may have been done, and wraps nothing that would promise the contrary.
		return fmt.Errorf("%w: %s: %v", kv.ErrTimeout, subject, d.cause) //nolint:errorlint // as said
	}
}

// readError is the error of a request that changes nothing, whatever came of it.
func readError(subject string, err error) error {
	switch {
	case errors.Is(err, ErrNoInbox):
		return forbidden(err)
	case errors.Is(err, errLost):
		return fmt.Errorf("%w: %s: %w", kv.ErrUnavailable, subject, err)
	case errors.Is(err, errNoAnswer):
		return fmt.Errorf("%w: %s: %w", kv.ErrTimeout, subject, err)
	default:
		return err
	}
}
