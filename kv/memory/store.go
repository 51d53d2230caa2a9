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
	"sync"
	"sync/atomic"
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
	closed atomic.Bool

	mu      sync.Mutex
	machine *machine.Machine
	// changed is closed at the next mutation or at Close; nil while nobody
	// waits for it.
	changed chan struct{}
	timer   *time.Timer
	armed   int64 // Unix nanoseconds at which the timer is due; 0 while it is not
}

// New returns an empty store. Close it when done.
func New(opts Options) *Store {
	if opts.Limits == (kv.Limits{}) {
		opts.Limits = kv.DefaultLimits()
	}
	return &Store{machine: machine.New(machine.Options{
		Limits:       opts.Limits,
		ReplayEvents: opts.ReplayEvents,
		ReplayBytes:  opts.ReplayBytes,
	})}
}

// Do implements [kv.Store].
func (s *Store) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	result, changed, err := s.apply(ctx, &cmd)
	wake(changed)
	return result, err
}

// Submit carries out a command and calls done with what [Store.Do] returns,
// before it returns itself and before those who watch are woken: an answer does
// not wait for the events.
func (s *Store) Submit(ctx context.Context, cmd kv.Command, done func(kv.Result, error)) {
	result, changed, err := s.apply(ctx, &cmd)
	defer wake(changed)
	done(result, err)
}

// apply carries out a command. The channel, if it is not nil, is to be closed:
// somebody waits for what the command did.
func (s *Store) apply(ctx context.Context, cmd *kv.Command) (kv.Result, chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return kv.Result{}, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return kv.Result{}, nil, kv.ErrClosed
	}
	before := s.machine.Revision()
	result, err := s.machine.Apply(time.Now().UnixNano(), cmd)
	return result, s.settle(before), err
}

// Get implements [kv.Store].
func (s *Store) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	if err := s.readable(ctx, opts); err != nil {
		return kv.Entry{}, err
	}
	entry, ok := s.machine.Get(key)
	if !ok || !entry.ExpiresAt.IsZero() && entry.Expired(time.Now()) {
		if err := kv.ValidateKey(key); err != nil {
			return kv.Entry{}, err
		}
		return kv.Entry{}, kv.ErrNotFound
	}
	return entry, nil
}

// Scan implements [kv.Store].
func (s *Store) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	if err := s.readable(ctx, q.ReadOptions); err != nil {
		return kv.Page{}, err
	}
	s.mu.Lock()
	view := s.machine.View()
	now := time.Now()
	s.mu.Unlock()
	defer view.Close()
	return view.Scan(q, now)
}

// Info implements [kv.Store].
func (s *Store) Info(ctx context.Context) (kv.Info, error) {
	if err := s.readable(ctx, kv.ReadOptions{}); err != nil {
		return kv.Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	info := s.machine.Info()
	info.Store = "memory"
	return info, nil
}

// Close implements [kv.Store].
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed.Store(true)
	if s.timer != nil {
		s.timer.Stop()
	}
	wake(s.takeChanged())
	return nil
}

// readable returns why a read can't be answered, nil if it can.
func (s *Store) readable(ctx context.Context, opts kv.ReadOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return kv.ErrClosed
	}
	if revision := s.machine.Revision(); opts.MinRevision > revision {
		// Nobody else writes: no wait would bring it.
		return fmt.Errorf("%w: the store is at revision %d, before %d", kv.ErrUnavailable, revision, opts.MinRevision)
	}
	return nil
}

// settle does what is due after the machine was fed, given the revision from
// before: it arms the timer, and returns the channel to close if somebody waits
// for what changed.
func (s *Store) settle(before uint64) chan struct{} {
	if due := s.machine.DeadlineBound(); s.armed == 0 || due < s.armed {
		s.arm(due)
	}
	if s.machine.Revision() == before {
		return nil
	}
	return s.takeChanged()
}

// takeChanged returns the channel that those wait on who wait for a change, nil
// if nobody does.
func (s *Store) takeChanged() chan struct{} {
	changed := s.changed
	s.changed = nil
	return changed
}

func wake(changed chan struct{}) {
	if changed != nil {
		close(changed)
	}
}
