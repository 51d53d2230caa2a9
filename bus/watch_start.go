package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// errIterated is of a sequence that was iterated before.
var errIterated = fmt.Errorf("%w: a watch is iterated once", kv.ErrClosed)

// probes is how often a watch asks whether its subscription is refused, where errors of
// other things come in between.
const probes = 5

// follow starts a watch, up to its starting point.
func follow(ctx context.Context, service watchService, opts FollowOptions) iter.Seq2[Change, error] {
	_, changes, err := newFollower(ctx, service, opts)
	if err != nil {
		return func(yield func(Change, error) bool) { yield(Change{}, err) }
	}
	return changes
}

func newFollower(ctx context.Context, service watchService, opts FollowOptions) (*follower, iter.Seq2[Change, error], error) {
	f := &follower{watchService: service, opts: opts.withDefaults()}
	if err := f.start(ctx); err != nil {
		return nil, nil, err
	}
	// A sequence that nobody iterates ends with its context, or with the client.
	f.waiting.Store(true)
	stop := context.AfterFunc(ctx, f.abandon)
	if f.ended(ctx) != nil {
		f.abandon() // it may have ended before that
	}
	return f, func(yield func(Change, error) bool) {
		if !f.waiting.CompareAndSwap(true, false) {
			yield(Change{}, cmp.Or(f.ended(ctx), errIterated))
			return
		}
		stop()
		defer f.release()
		f.yield = yield
		if err := f.run(ctx); !errors.Is(err, errLeft) {
			yield(Change{}, err)
		}
	}, nil
}

// successor starts a watch after a revision, in the place of one that has ended. It
// tries until the service answers.
func (f *follower) successor(ctx context.Context, after uint64) (*follower, iter.Seq2[Change, error], error) {
	opts := f.opts
	opts.Start = kv.After(after)
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		next, changes, err := newFollower(ctx, f.watchService, opts)
		if err == nil {
			next.life, next.begun = f.life, f.begun
			next.life.doubt(f.contact) // the store may have begun anew meanwhile
			return next, changes, nil
		}
		if ended := f.ended(ctx); ended != nil {
			return nil, nil, ended
		}
		if stays(err) {
			return nil, nil, err
		}
		if err := f.rest(ctx, vary(backoff)); err != nil {
			return nil, nil, err
		}
	}
}

func (f *follower) start(ctx context.Context) error {
	if err := f.opts.validate(); err != nil {
		return err
	}
	if err := f.ended(ctx); err != nil {
		return err
	}
	f.all = f.opts.Prefix == "" && f.opts.Filter.IsZero()
	f.queue = newWatchQueue(f.subjects, f.opts)
	if err := f.hub.join(f.nc, f.subjects, f.queue, f.abandon); err != nil {
		return err
	}
	f.reconnects = f.nc.Stats().Reconnects
	before := f.nc.LastError()
	sub, err := f.nc.Subscribe(f.subjects.selectionSubject(f.opts.Prefix, f.opts.Filter), f.queue.receive)
	if err == nil {
		// What waits there has not been looked at yet, whether it is selected or not.
		err = sub.SetPendingLimits(max(f.opts.MaxPending, DefaultMaxPending), max(f.opts.MaxPendingBytes, DefaultMaxPendingBytes))
	}
	f.sub = sub
	if err != nil {
		f.release()
		return fmt.Errorf("watch: %w", connectionError(err))
	}
	f.subscribed = time.Now()
	f.heardOf(f.subscribed)
	f.scheduleAudit(f.subscribed)
	now, err := f.store.Revision(ctx, f.literal())
	if err == nil {
		err = f.refusal(ctx, before)
	}
	if err != nil {
		f.release()
		return fmt.Errorf("watch: %w", err)
	}
	after, set := f.opts.Start.Revision()
	if !set {
		after = now
	}
	f.startAfter(after)
	f.begun = time.Now()
	f.started = !set && !f.opts.State
	return nil
}

// refusal returns the error of a subscription that the server has refused since the
// last error of the connection was before. The server tells of it before it answers
// a later question. The connection holds its last error only: where that is of
// something else, such as another watch, the server is asked again.
func (f *follower) refusal(ctx context.Context, before error) error {
	last := f.nc.LastError()
	if last == before { //nolint:errorlint // another error, not another kind
		return nil
	}
	if err := f.refused(last); err != nil {
		return err
	}
	return f.hub.alone(func() error {
		for range probes {
			last, ok := f.probe(ctx)
			if !ok {
				return nil
			}
			if err := f.refused(last); err != nil {
				return err
			}
		}
		return nil
	})
}

// probe subscribes once more, and returns the error that the connection has then,
// or false where there is no new one, or no telling: a connection that is lost asks
// again when it is back.
func (f *follower) probe(ctx context.Context) (last error, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	before := f.nc.LastError()
	sub, err := f.nc.Subscribe(f.sub.Subject, func(*nats.Msg) {})
	if err != nil {
		return nil, false
	}
	err = f.nc.FlushWithContext(ctx)
	last = f.nc.LastError()
	_ = sub.Unsubscribe()                     // of a connection that is closed there is none left
	return last, err == nil && last != before //nolint:errorlint // another error, not another kind
}

// refused returns what err says about the subscription, nil if it is of something
// else.
func (f *follower) refused(err error) error {
	if action, subject, ok := PermissionViolation(err); ok && action == ActionSubscription && subject == f.sub.Subject {
		return forbidden(err)
	}
	return nil
}

// literal is the longest prefix that all selected keys have, by which the store is
// asked: who may watch some keys may not ask for all.
func (f *follower) literal() string {
	if literal := f.opts.Filter.Literal(); strings.HasPrefix(literal, f.opts.Prefix) {
		return literal
	}
	return f.opts.Prefix
}

func (f *follower) startAfter(revision uint64) {
	f.proven, f.audited, f.reached, f.given, f.newest = revision, revision, revision, revision, revision
	f.seen, f.forgotten = seen{}, 0
	f.givenAt = time.Time{}
}

// abandon ends a watch whose sequence nobody iterates.
func (f *follower) abandon() {
	if f.waiting.CompareAndSwap(true, false) {
		f.release()
	}
}

func (f *follower) release() {
	if f.sub != nil {
		_ = f.sub.Unsubscribe() // of a connection that is closed there is none left
	}
	f.hub.leave(f.nc, f.queue)
}
