package recipe

import (
	"context"
	"errors"
	"iter"
	"strings"

	"kvbus/kv"
)

// Leadership is what the winner of a [Campaign] has, until it is lost or given
// up; who has it must call [Leadership.Resign] in the end. Its methods are safe
// for concurrent use.
type Leadership struct{ lock *Lock }

// Campaign waits until this candidate leads. The election is a lock on key, with
// opts.Value as what others learn of the leader, such as its address; the rules,
// and the errors, are those of [Acquire].
func Campaign(ctx context.Context, store kv.Store, key string, opts LockOptions) (*Leadership, error) {
	lock, err := Acquire(ctx, store, key, opts)
	if err != nil {
		return nil, err
	}
	return &Leadership{lock}, nil
}

// Term returns the fencing token of this leadership; later leaders have a higher
// one. See [Lock.Token].
func (l *Leadership) Term() uint64 { return l.lock.Token() }

// Lost returns a channel that is closed when the leadership is lost; see
// [Lock.Lost].
func (l *Leadership) Lost() <-chan struct{} { return l.lock.Lost() }

// Err returns nil while this candidate leads; see [Lock.Err].
func (l *Leadership) Err() error { return l.lock.Err() }

// Resign gives the leadership up, so that the next candidate has it at once. Its
// errors are those of [Lock.Unlock].
func (l *Leadership) Resign(ctx context.Context) error { return l.lock.Unlock(ctx) }

// A Leader is what [Observe] tells. The zero Leader says that nobody leads.
type Leader struct {
	// Value is what the leader gave to [Campaign].
	Value string
	// Revision is that at which the leader was seen first. It is the Term of the
	// leader or higher, and lower than the Term of the next one.
	Revision uint64
}

// Observe yields the leader, and the next one whenever it changes. Between two
// leaders it may yield the zero Leader; leaders that came and went while the
// service was not in reach may be left out. While the service can't be asked
// nothing is yielded.
//
// The sequence ends with the error of ctx, [kv.ErrClosed], or one that asking
// again would not mend.
func Observe(ctx context.Context, store kv.Store, key string) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		filter, err := keyFilter(key)
		if err != nil {
			yield(Leader{}, err)
			return
		}
		o := observer{store: store, key: key, filter: filter, yield: yield}
		if err := persist(ctx, o.follow); !errors.Is(err, errLeft) {
			yield(Leader{}, err)
		}
	}
}

var errLeft = errors.New("the consumer has left")

type observer struct {
	store  kv.Store
	key    string
	filter kv.Filter // the key alone
	yield  func(Leader, error) bool

	begun bool
	mark  string // of the last leader; empty where there was none
}

// follow tells who leads, until it no longer learns it.
func (o *observer) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := o.store.Watch(ctx, kv.WatchOptions{Filter: o.filter})
	seen, err := o.look(ctx)
	if err != nil {
		return err
	}
	for event, err := range events {
		if _, lagged := errors.AsType[*kv.LagError](err); lagged {
			if seen, err = o.look(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if event.Revision <= seen {
			continue
		}
		switch event.Kind {
		case kv.EventSet:
			err = o.tell(event.Value, event.Revision)
		case kv.EventDelete, kv.EventExpire:
			err = o.tell("", 0)
		}
		if err != nil {
			return err
		}
	}
	return kv.ErrClosed
}

// look reads who leads, and returns the revision of the store which that is of.
func (o *observer) look(ctx context.Context) (uint64, error) {
	asking, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	page, err := o.store.Scan(asking, kv.Query{Prefix: o.key, Filter: o.filter, ReadOptions: kv.ReadOptions{Consistency: kv.Linearizable}})
	if err != nil {
		return 0, err
	}
	if len(page.Entries) == 0 {
		return page.Revision, o.tell("", 0)
	}
	return page.Revision, o.tell(page.Entries[0].Value, page.Entries[0].Revision)
}

// tell yields what a value says, if it is another leader's than the last one.
func (o *observer) tell(entry string, revision uint64) error {
	mark, value, _ := strings.Cut(entry, " ")
	if o.begun && mark == o.mark {
		return nil
	}
	o.begun, o.mark = true, mark
	if !o.yield(Leader{Value: value, Revision: revision}, nil) {
		return errLeft
	}
	return nil
}
