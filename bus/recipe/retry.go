package recipe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"kvbus/bus"
	"kvbus/kv"
)

// firstPause and lastPause bound the time between two attempts.
const firstPause, lastPause = 20 * time.Millisecond, time.Second

// persist calls f until it succeeds, or fails with an error that stays, or ctx
// ends; the error then wraps that of ctx and the last of f.
func persist(ctx context.Context, f func(ctx context.Context) error) error {
	pause := firstPause
	for {
		began := time.Now()
		err := f(ctx)
		ended := ctx.Err()
		switch {
		case err == nil:
			return nil
		case ended != nil && !errors.Is(err, ended):
			return fmt.Errorf("%w: %w", ended, err)
		case ended != nil || !passes(err):
			return err
		}
		if time.Since(began) > lastPause {
			pause = firstPause // it went well for a while
		}
		if ended := rest(ctx, pause/2+rand.N(pause)); ended != nil {
			return fmt.Errorf("%w: %w", ended, err)
		}
		pause = min(2*pause, lastPause)
	}
}

// rest waits for a time, or until ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ambiguous reports whether a command that failed so may have been carried out.
func ambiguous(err error) bool {
	return isAny(err, kv.ErrTimeout, kv.ErrInternal, context.DeadlineExceeded, context.Canceled)
}

// passes reports whether the same request may succeed later.
func passes(err error) bool {
	if isAny(err, kv.ErrClosed, bus.ErrForbidden) {
		return false
	}
	return ambiguous(err) || isAny(err, kv.ErrUnavailable, kv.ErrOverloaded, kv.ErrCompacted)
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
