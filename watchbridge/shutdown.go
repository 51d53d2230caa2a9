package watchbridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kvbus/kv"
)

const (
	// stopTimeout is how long a bridge that is told to stop is waited for. One whose
	// connection is stuck in a write stops when that ends.
	stopTimeout = time.Second
	// countTimeout is how long the count of what was not published waits for a
	// source that is not closed.
	countTimeout = 100 * time.Millisecond
)

// Wait returns when the source is closed and all its events are published. If
// ctx ends earlier, the bridge stops; the log and the error say how many events
// were not published, or not confirmed by the server. Those of a [Log] are left
// to the next publisher. A write that the server does not take does not hold up
// Wait; it ends as [Options.Dial] says.
func (b *Bridge) Wait(ctx context.Context) error {
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
	}
	b.cancel()
	select {
	case <-b.done:
	case <-time.After(stopTimeout):
	}
	counting, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
	defer cancel()
	closed := b.lookAhead(counting)
	if due := b.due(); due > 0 {
		_, kept := b.source.(Log)
		b.logger.Error("events were not published", "events", due, "after_revision", b.confirmed.Load(), "lost", !kept)
		return fmt.Errorf("%d events after revision %d were not published: %w", due, b.confirmed.Load(), ctx.Err())
	}
	if closed {
		return nil
	}
	return ctx.Err()
}

// due is how many events this worker knows of and the server has not confirmed.
func (b *Bridge) due() uint64 {
	confirmed := b.confirmed.Load()
	return max(b.newest.Load(), b.position.Load(), confirmed) - confirmed
}

// lookAhead notes how far the source is, while there is no session that does,
// and reports whether it was closed before ctx ended.
func (b *Bridge) lookAhead(ctx context.Context) (closed bool) {
	if log, ok := b.source.(Log); ok {
		return b.lookAtLog(ctx, log)
	}
	after := max(b.newest.Load(), b.position.Load(), b.confirmed.Load())
	for event, err := range b.after(ctx, after) {
		if lag, ok := errors.AsType[*kv.LagError](err); ok {
			b.newest.Store(lag.Last)
			continue
		}
		if err != nil {
			return errors.Is(err, kv.ErrClosed)
		}
		b.newest.Store(event.Revision)
	}
	return false
}

// lookAtLog is lookAhead for a store that workers share. Where this one is not
// known to publish, another does, or the next one will: nothing is due here.
func (b *Bridge) lookAtLog(ctx context.Context, log Log) (closed bool) {
	select {
	case <-log.Closed():
	case <-ctx.Done():
		return false
	}
	if b.mark.Load() != nil {
		if revision, err := log.RevisionAfter(ctx, log.Applied()); err == nil {
			b.newest.Store(revision)
		}
	}
	return true
}
