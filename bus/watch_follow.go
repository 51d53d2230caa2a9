package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

const (
	// tailGrace is how long events may come after the heartbeat that tells of them:
	// two subscriptions are delivered side by side.
	tailGrace = 100 * time.Millisecond
	// fetchTimeout bounds one request of a watch.
	fetchTimeout = 15 * time.Second
	// firstBackoff and lastBackoff bound the pause after a request that failed.
	firstBackoff, lastBackoff = 250 * time.Millisecond, 15 * time.Second
	// restartPause is the shortest time between two new starts.
	restartPause = time.Second
)

// watchStore is what a watch asks for over the bus.
type watchStore interface {
	// Revision returns the store's revision, at a cost that does not grow with the
	// store, on a subject that who may watch the keys under prefix may use.
	Revision(ctx context.Context, prefix string) (uint64, error)
	Scan(ctx context.Context, q kv.Query) (kv.Page, error)
	Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error)
	Info(ctx context.Context) (Info, error)
}

// watchService is what a watch needs of its client.
type watchService struct {
	store    watchStore
	nc       *nats.Conn
	subjects Subjects
	hub      *watchHub
	closed   <-chan struct{} // when the client is
}

// A follower is one watch. Only the queue, the subscription that fills it, and
// waiting are used by other goroutines than the one that iterates.
//
// It knows three revisions. All selected events up to proven were given, beyond
// doubt, or are too many to be compared. Those up to reached were given unless the
// network lost some without a sign. given is that of the last event that was:
// nothing below it can be given any more. A watch of all keys sees each loss at
// once, and so proves all it gives; a watch of some keys compares, from time to
// time, with what the store holds.
type follower struct {
	watchService
	opts  FollowOptions
	all   bool // every key is selected
	queue *watchQueue
	sub   *nats.Subscription
	yield func(Change, error) bool
	// waiting says that the sequence is there and nobody has begun to iterate it.
	waiting atomic.Bool

	proven, reached, given uint64
	looked                 uint64 // from where the last fetch began
	// audited is where the next audit starts: proven, or above it after an audit
	// that came too late.
	audited uint64
	// newest is the highest revision that the watch has heard of.
	newest    uint64
	seen      seen
	givenAt   time.Time // of the last event that was given, by its own time; zero if none was
	pages     statePages
	batch     pageSize
	started   bool // the starting point is reached
	restarted time.Time

	life       life
	begun      time.Time // when the starting point was found
	dropped    int
	reconnects uint64
	subscribed time.Time // when the subscription was made, or made again
	settled    bool      // an audit came after the subscription was known everywhere
	beatAt     time.Time // of the last heartbeat that was looked at
	tail       tail
	behind     bool // the last heartbeat was of an earlier revision than the events
	nextAudit  time.Time
	busyAudit  time.Time // before which no audit comes for the number of events
	forgotten  uint64    // revision up to which events were forgotten without an audit; 0 for none
	contact    time.Time // of the last sign of life
	stale      bool
}

// tail is a heartbeat ahead of the events.
type tail struct {
	revision uint64
	due      time.Time // zero if there is none
}

// errLeft says that the consumer wants no more.
var errLeft = errors.New("the consumer has left")

// ended returns why the watch is over, nil if it is not.
func (f *follower) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-f.closed:
		return kv.ErrClosed
	default:
	}
	if f.nc.IsClosed() {
		return fmt.Errorf("%w: the connection", kv.ErrClosed)
	}
	return nil
}

// run follows until the end.
func (f *follower) run(ctx context.Context) error {
	for {
		err := f.runLife(ctx)
		if !errors.Is(err, kv.ErrCompacted) || !f.opts.Restart {
			return err
		}
		if err := f.restart(ctx, err); err != nil {
			return err
		}
	}
}

// restart forgets everything. The current state comes next.
func (f *follower) restart(ctx context.Context, cause error) error {
	if err := f.give(Change{Kind: ChangeRestart, Revision: f.reached, Cause: cause}); err != nil {
		return err
	}
	if wait := restartPause - time.Since(f.restarted); wait > 0 && !f.restarted.IsZero() {
		if err := f.rest(ctx, wait); err != nil {
			return err
		}
	}
	f.restarted = time.Now()
	f.opts.State, f.started = true, false
	f.life.forget()
	f.begun = f.restarted
	f.queue.take(nil)
	_, f.beatAt = f.queue.heard()
	f.tail, f.behind = tail{}, false
	return nil
}

// runLife follows one life of the store, as long as no event is lost.
func (f *follower) runLife(ctx context.Context) error {
	if !f.started {
		var err error
		if f.opts.State {
			err = f.readState(ctx)
		} else {
			err = f.fetch(ctx, f.reached)
		}
		if err != nil {
			return err
		}
		f.started = true
	}
	var events []kv.Event
	for {
		if err := f.ended(ctx); err != nil {
			return err
		}
		clear(events)
		var (
			since      time.Time
			overflowed bool
		)
		events, since, overflowed = f.queue.take(events)
		reason, err := f.interruption(overflowed)
		if err != nil {
			return err
		}
		if err := f.hear(ctx); err != nil {
			return err
		}
		if reason != nil {
			if err := f.repair(ctx, reason); err != nil {
				return err
			}
			continue
		}
		for i := range events {
			if err := f.live(ctx, &events[i]); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			f.heardOf(since)
		}
		wait, err := f.tend(ctx, len(events) == 0)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			if err := f.pause(ctx, wait); err != nil {
				return err
			}
		}
	}
}

// The reasons for which events may be missing.
var (
	errReconnected = errors.New("the connection was lost")
	errSlow        = errors.New("the consumer is slow")
	errDropped     = errors.New("the connection dropped events that came too fast")
	errGap         = errors.New("an event is missing")
	errTail        = errors.New("the last events did not come")
	errSilence     = errors.New("there was no sign of life")
	errBusy        = errors.New("there were more events than are remembered between two audits")
)

// interruption returns why what was taken last may lack events, nil if there is
// no reason. All of that is dropped then, and fetched. It must be called after
// the queue was looked at, to know of every loss before it.
func (f *follower) interruption(overflowed bool) (reason, err error) {
	dropped, err := f.sub.Dropped()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kv.ErrClosed, err) // the subscription ended with its connection
	}
	if reconnects := f.nc.Stats().Reconnects; reconnects != f.reconnects {
		f.reconnects, f.dropped = reconnects, dropped
		f.subscribed, f.settled = time.Now(), false
		f.life.doubt(f.contact)
		return errReconnected, nil
	}
	if dropped != f.dropped {
		f.dropped = dropped
		return errDropped, nil
	}
	if overflowed {
		return errSlow, nil
	}
	return nil, nil
}

// repair fetches what may be missing. Who lost events of the queue has to go back
// to the last one that was given; after a connection came back, nothing is missing
// that came before the last heartbeat on it.
func (f *follower) repair(ctx context.Context, reason error) error {
	from := f.reached
	if reason != errReconnected { //nolint:errorlint // it is not wrapped
		from = max(f.given, f.proven)
	}
	err := f.fetch(ctx, from)
	if err == nil && reason == errReconnected { //nolint:errorlint // nor here
		err = f.refusal(ctx, nil) // the new connection begins without an error
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", err, reason)
	}
	f.notify(NoticeRepaired, reason)
	return nil
}

// live looks at an event of the subscription.
func (f *follower) live(ctx context.Context, event *kv.Event) error {
	revision, previous := event.Revision, event.PreviousRevision
	if revision <= f.proven || f.seen.has(revision) {
		if !f.givenAt.IsZero() && event.Time.After(f.givenAt) {
			return errNewLife // a repeated event has the time that it had
		}
		return nil
	}
	complete := false
	switch {
	case f.all:
		complete = revision == f.reached+1
	case revision < f.given:
		return f.outOfOrder(revision)
	case previous <= f.proven || f.seen.has(previous):
		complete = true
	case previous < f.given:
		return f.outOfOrder(previous)
	}
	if complete {
		return f.giveEvent(event)
	}
	// The answer has this event too. One that the store does not know is none.
	return f.repair(ctx, errGap)
}

// errOutOfOrder is what a watch is left with that has given what comes after.
var errOutOfOrder = fmt.Errorf("%w: lost on its way", kv.ErrCompacted)

// outOfOrder is the end of a watch of some keys that learns of a loss when it has
// given later events.
func (f *follower) outOfOrder(revision uint64) error {
	return fmt.Errorf("%w: event %d, and missed when event %d had been given", errOutOfOrder, revision, f.given)
}

// giveEvent gives the next event.
func (f *follower) giveEvent(event *kv.Event) error {
	f.given, f.givenAt = event.Revision, event.Time
	f.reached, f.newest = max(f.reached, f.given), max(f.newest, f.given)
	if f.all {
		f.proven, f.audited = f.reached, f.reached
	} else if forgotten := f.seen.add(f.given, f.audited); forgotten > 0 {
		if forgotten > f.audited {
			f.forgotten = forgotten // which the next audit tells
		}
		f.proven = max(f.proven, forgotten)
		f.audited = max(f.audited, f.proven)
	}
	return f.give(Change{Kind: ChangeEvent, Event: *event, Revision: event.Revision})
}

func (f *follower) give(c Change) error {
	if !f.yield(c, nil) {
		return errLeft
	}
	return nil
}
