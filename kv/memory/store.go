// Package memory is the volatile store: the state machine behind a lock, with
// the wall clock. One process has it, and what it holds ends with it.
//
// Commands take the lock one after the other. Get takes none, and Scan, Replay
// and Watch only for the moment in which they freeze or copy something, so no
// read waits for a scan and no write for a reader. All of it is linearizable,
// whatever consistency a read asks for.
//
// Deadlines are acted on by a timer, within milliseconds. The store starts no
// goroutine that outlives its timer's shot; Close stops the timer.
package memory

import (
	"context"
	"fmt"
	"iter"
	"time"

	"kvbus/kv"
	"kvbus/kv/machine"
)

var _ kv.Store = (*Store)(nil)

// Options configure a store. The zero value means the defaults.
type Options struct {
	// Limits of the store; all zero means [kv.DefaultLimits].
	Limits kv.Limits
	// ReplayEvents and ReplayBytes bound the ring of recent events; zero means
	// the defaults of [machine.Options].
	ReplayEvents int
	ReplayBytes  int64
}

// A Store is a [kv.Store] in memory.
type Store struct {
	shared *machine.Shared
	alarm  alarm // under the lock of shared
}

// New returns an empty store. Close it when done.
func New(opts Options) *Store {
	if opts.Limits == (kv.Limits{}) {
		opts.Limits = kv.DefaultLimits()
	}
	s := &Store{shared: machine.Share(machine.New(machine.Options{
		Limits:       opts.Limits,
		ReplayEvents: opts.ReplayEvents,
		ReplayBytes:  opts.ReplayBytes,
	}))}
	s.alarm.ring = s.sweep
	return s
}

// Do implements [kv.Store].
func (s *Store) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	result, wake, err := s.apply(ctx, &cmd)
	wake.Up()
	return result, err
}

// Submit carries out a command and calls done with what [Store.Do] returns,
// before it returns itself and before those who watch are woken: an answer does
// not wait for the events.
func (s *Store) Submit(ctx context.Context, cmd kv.Command, done func(kv.Result, error)) {
	result, wake, err := s.apply(ctx, &cmd)
	defer wake.Up()
	done(result, err)
}

func (s *Store) apply(ctx context.Context, cmd *kv.Command) (result kv.Result, wake machine.Wake, err error) {
	if err := ctx.Err(); err != nil {
		return kv.Result{}, machine.Wake{}, err
	}
	wake, closed := s.shared.Update(func(m *machine.Machine) {
		result, err = m.Apply(time.Now().UnixNano(), cmd)
		s.alarm.set(m.DeadlineBound())
	})
	if closed != nil {
		return kv.Result{}, wake, closed
	}
	return result, wake, err
}

// Get implements [kv.Store].
func (s *Store) Get(ctx context.Context, key string, opts kv.ReadOptions) (entry kv.Entry, err error) {
	if !s.has(opts.MinRevision) {
		if err = s.readable(ctx, opts); err != nil {
			return entry, err
		}
	}
	err = s.shared.Get(key, time.Now, &entry)
	// Asked last: before, the arguments of the get would have to be kept over this
	// call, and its instructions keep those of the next lookup waiting.
	if ended := ctx.Err(); ended != nil {
		return kv.Entry{}, ended
	}
	return entry, err
}

// Scan implements [kv.Store].
func (s *Store) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	if err := s.readable(ctx, q.ReadOptions); err != nil {
		return kv.Page{}, err
	}
	return s.shared.Scan(q, time.Now)
}

// Replay implements [kv.Store].
func (s *Store) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	if err := s.readable(ctx, q.ReadOptions); err != nil {
		return kv.Replay{}, err
	}
	return s.shared.Replay(q)
}

// Watch implements [kv.Store]. What happened before Close comes before
// [kv.ErrClosed].
func (s *Store) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return s.shared.Watch(ctx, opts)
}

// Info implements [kv.Store].
func (s *Store) Info(ctx context.Context) (kv.Info, error) {
	if err := s.readable(ctx, kv.ReadOptions{}); err != nil {
		return kv.Info{}, err
	}
	var info kv.Info
	wake, err := s.shared.Update(func(m *machine.Machine) {
		m.Expire(time.Now().UnixNano()) // what has expired is not counted
		info = m.Info()
	})
	wake.Up()
	info.Store = "memory"
	return info, err
}

// OldestRevision returns the revision of the oldest event held, also after Close;
// where none is, one above that of the store.
func (s *Store) OldestRevision() uint64 { return s.shared.OldestRevision() }

// Close implements [kv.Store].
func (s *Store) Close() error {
	s.shared.Close()
	s.alarm.stop() // nobody sets it any more
	return nil
}

// readable returns why a read can't be answered, nil if it can.
func (s *Store) readable(ctx context.Context, opts kv.ReadOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.shared.Closed() {
		return kv.ErrClosed
	}
	if revision := s.shared.Settled(); opts.MinRevision > revision {
		// Nobody else writes: no wait would bring it.
		return fmt.Errorf("%w: the store is at revision %d, before %d", kv.ErrUnavailable, revision, opts.MinRevision)
	}
	return nil
}

// has reports whether the store is open and has reached a revision. It waits for
// nobody.
func (s *Store) has(revision uint64) bool {
	return !s.shared.Closed() && revision <= s.shared.Revision()
}
