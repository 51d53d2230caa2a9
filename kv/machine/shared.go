package machine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"kvbus/kv"
)

// A Shared is a machine behind the lock that its concurrent use needs, with
// those who wait for its events. All its methods are safe for concurrent use.
type Shared struct {
	machine atomic.Pointer[Machine]

	mu sync.Mutex
	// changed is closed at the next mutation or at Close; nil while nobody
	// waits for it.
	changed chan struct{}
	closed  atomic.Bool
}

// Share puts m behind a lock. Nobody else may use it any more.
func Share(m *Machine) *Shared {
	s := &Shared{}
	s.machine.Store(m)
	return s
}

// A Wake wakes those who wait for events. The zero Wake wakes nobody.
type Wake struct{ changed chan struct{} }

// Up wakes them.
func (w Wake) Up() {
	if w.changed != nil {
		close(w.changed)
	}
}

// Update calls f with the machine, which f must not keep. It fails with
// [kv.ErrClosed], and f is then not called. Who wait for the events that f made
// sleep on until the Wake is used, which must be soon.
func (s *Shared) Update(f func(m *Machine)) (Wake, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return Wake{}, kv.ErrClosed
	}
	m := s.machine.Load()
	before := m.Revision()
	f(m)
	if m.Revision() == before {
		return Wake{}, nil
	}
	return s.wake(), nil
}

// Replace puts another machine, which is further on, in the place of the
// present one, and calls also, under the same lock, for what belongs to it.
// Watchers go on in its ring.
func (s *Shared) Replace(m *Machine, also func()) {
	s.mu.Lock()
	also()
	s.machine.Store(m)
	wake := s.wake()
	s.mu.Unlock()
	wake.Up()
}

func (s *Shared) wake() Wake {
	changed := s.changed
	s.changed = nil
	return Wake{changed}
}

// Closed reports whether the machine was closed.
func (s *Shared) Closed() bool { return s.closed.Load() }

// Close ends updates and, once they have had what happened before, watches.
func (s *Shared) Close() {
	s.mu.Lock()
	s.closed.Store(true)
	wake := s.wake()
	s.mu.Unlock()
	wake.Up()
}

// Revision returns the revision of the last mutation. It waits for nobody. Get may
// have shown the one after it already.
func (s *Shared) Revision() uint64 { return s.machine.Load().Revision() }

// Settled returns the revision of the last mutation, all that Get has shown
// included. It waits for the update that is under way.
func (s *Shared) Settled() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Revision()
}

// Get fills entry, which is zero, with that of key, and fails as [kv.Store.Get]
// does. It asks now for the time only where the entry has a deadline. It waits
// for nobody.
//
// It fills what the caller returns, field by field. An entry is too large to be
// handed up in registers alone: it would be copied at each level, in pieces of
// another size than those it was just written in, for which a processor waits.
func (s *Shared) Get(key string, now func() time.Time, entry *kv.Entry) error {
	m := s.machine.Load()
	if m.clears(key) {
		return absent(key)
	}
	n := m.table.get(key)
	v := n.version()
	if v == nil || v.deadline != 0 && v.deadline <= now().UnixNano() {
		return absent(key)
	}
	entry.Key, entry.Value, entry.Revision = n.key, v.value, v.revision
	if v.deadline != 0 {
		entry.ExpiresAt = instant(v.deadline)
	}
	return nil
}

// absent is the error of reading a key that is not there.
func absent(key string) error {
	if err := kv.ValidateKey(key); err != nil {
		return err
	}
	return kv.ErrNotFound
}

// View freezes the current state.
func (s *Shared) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Load().View()
}

// Scan answers q as [kv.Store.Scan] does. It holds the lock only to freeze the
// state, and asks now for the time after that.
func (s *Shared) Scan(q kv.Query, now func() time.Time) (kv.Page, error) {
	view := s.View()
	defer view.Close()
	return view.Scan(q, now())
}

// OldestRevision returns the revision of the oldest event in the ring; it is one
// above that of the store where none is held.
func (s *Shared) OldestRevision() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machine.Load()
	return m.ring.oldest(m.Revision())
}

// Events is [Machine.Events].
func (s *Shared) Events(after uint64, buf []kv.Event) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Load().Events(after, buf)
}

// Next waits for events after a revision and copies them into buf. It fails
// with a [*kv.LagError] if the ring no longer holds the first of them, with the
// context's error, and with [kv.ErrClosed] once there is nothing more to come.
func (s *Shared) Next(ctx context.Context, after uint64, buf []kv.Event) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, changed, err := s.poll(after, buf)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// poll is Next without the wait: where there is nothing yet, it returns a
// channel that is closed when there may be.
func (s *Shared) poll(after uint64, buf []kv.Event) (int, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machine.Load()
	if oldest := m.ring.oldest(m.Revision()); after+1 < oldest {
		return 0, nil, &kv.LagError{First: after + 1, Last: oldest - 1}
	}
	n, err := m.Events(after, buf)
	if n > 0 || err != nil {
		return n, nil, err
	}
	if s.closed.Load() {
		return 0, nil, kv.ErrClosed
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return 0, s.changed, nil
}
