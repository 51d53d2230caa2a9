package bus

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// Follow gives what happens to the keys that opts select, as the section on
// watches says. Its starting point is fixed when Follow returns: it asks the
// service first, and waits for the answer as a call does. The sequence can be
// iterated once; it ends with the context's error, with [kv.ErrClosed], with
// [kv.ErrCompacted], with [kv.ErrInvalidArgument] or [kv.ErrInvalidKey] for opts
// that are none, with [kv.ErrValueTooLarge] for a value that no answer has room for,
// or with the error of that first question.
func (c *Client) Follow(ctx context.Context, opts FollowOptions) iter.Seq2[Change, error] {
	return follow(ctx, c.watches(), opts)
}

func (c *Client) watches() watchService {
	return watchService{store: watchReads{c}, nc: c.nc, subjects: c.subjects, hub: &c.hub, closed: c.closed}
}

// watchReads are the reads of watches, which tell of each failure and try again
// by themselves.
type watchReads struct{ client *Client }

func (r watchReads) Revision(ctx context.Context, prefix string) (uint64, error) {
	m, err := r.client.subjects.EncodeQuery(kv.Query{
		Prefix:      prefix,
		KeysOnly:    true,
		Limit:       1,
		ReadOptions: kv.ReadOptions{Consistency: kv.Linearizable},
	})
	if err != nil {
		return 0, err
	}
	var page kv.Page
	err = r.client.ask(ctx, m, func(m *nats.Msg) (err error) {
		page, err = DecodeKeys(m)
		return err
	})
	return page.Revision, err
}

func (r watchReads) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	return r.client.scan(ctx, q, true)
}

func (r watchReads) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	return r.client.replay(ctx, q, true)
}

func (r watchReads) Info(ctx context.Context) (Info, error) {
	return r.client.serviceInfo(ctx, kv.ReadOptions{}, true)
}

// Watch implements [kv.Store]. It is [Client.Follow] for events alone; one that
// lags behind what the store holds goes on after a [*kv.LagError].
func (c *Client) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	following := FollowOptions{Prefix: opts.Prefix, Filter: opts.Filter, Start: opts.Start}
	f, changes, err := newFollower(ctx, c.watches(), following)
	if err != nil {
		return func(yield func(kv.Event, error) bool) { yield(kv.Event{}, err) }
	}
	return func(yield func(kv.Event, error) bool) {
		for started := false; ; {
			var ended error
			for change, err := range changes {
				if err != nil {
					ended = err
					break
				}
				if !yield(change.Event, nil) {
					return
				}
			}
			if started = started || f.started; !started {
				yield(kv.Event{}, ended)
				return
			}
			lag, err := f.lag(ctx, ended)
			if err != nil {
				yield(kv.Event{}, err)
				return
			}
			if !yield(kv.Event{}, lag) {
				return
			}
			next, more, err := f.successor(ctx, lag.Last)
			if err != nil {
				yield(kv.Event{}, err)
				return
			}
			f, changes = next, more
		}
	}
}

// lag returns what a watch has lost that has ended because the store no longer
// holds what comes next; else the error with which it ends.
func (f *follower) lag(ctx context.Context, ended error) (*kv.LagError, error) {
	if !errors.Is(ended, kv.ErrCompacted) || errors.Is(ended, errNewLife) || errors.Is(ended, errOutOfOrder) {
		return nil, ended
	}
	f.life.doubt(f.contact)
	if err := f.sameLife(ctx); err != nil {
		return nil, err
	}
	info, _, err := f.info(ctx)
	switch {
	case errors.Is(err, ErrForbidden): // there is no telling how much it is
		return nil, fmt.Errorf("%w (%w)", ended, err)
	case err != nil:
		return nil, err
	}
	from := max(f.looked, f.given, f.proven)
	if info.Revision < f.reached || info.OldestRevision <= from+1 {
		return nil, ended // of another store
	}
	return &kv.LagError{First: from + 1, Last: info.OldestRevision - 1}, nil
}
