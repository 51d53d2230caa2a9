package recipe

import (
	"context"
	"fmt"
	"time"

	"kvbus/bus"
	"kvbus/kv"
)

// run keeps the mirror until it ends.
func (m *Mirror) run(ctx context.Context) {
	defer close(m.ended)
	err := persist(ctx, m.follow)
	if ctx.Err() != nil {
		err = kv.ErrClosed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = fmt.Errorf("mirror: %w", err)
	m.stale.Store(true)
	m.next = nil
	m.current.Store(nil)
	close(m.reached)
	if !m.isReady {
		m.isReady = true
		close(m.ready)
	}
}

// follow fills the mirror and keeps it up, until it no longer can.
func (m *Mirror) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.next, m.refill, m.began = newMirrorTable(), cancel, time.Now()
	for change, err := range m.source.Follow(ctx, m.opts.FollowOptions) {
		if err == nil {
			err = m.take(&change)
		}
		if err != nil {
			m.setStale(err)
			return err
		}
	}
	return fmt.Errorf("%w: the watch has ended", kv.ErrInternal)
}

func (m *Mirror) take(change *bus.Change) error {
	table := m.next
	if table == nil {
		table = m.current.Load()
	}
	switch change.Kind {
	case bus.ChangeState:
		table.put(change.Entry)
	case bus.ChangeEvent:
		if err := table.apply(&change.Event); err != nil {
			return err
		}
	case bus.ChangeRestart:
		// What is there is stale, and is shown until there is better.
		m.setStale(change.Cause)
		m.next, m.began = newMirrorTable(), time.Now()
		return nil
	case bus.ChangeReady:
		m.next, m.doubtful = nil, false
		m.took = time.Since(m.began)
		m.current.Store(table)
		m.setLive()
	}
	if keys, bytes := table.keys.Load(), table.bytes.Load(); keys > int64(m.opts.MaxKeys) || bytes > m.opts.MaxBytes {
		return fmt.Errorf("%w: %d keys of %d bytes; it holds %d of %d", ErrMirrorFull, keys, bytes, m.opts.MaxKeys, m.opts.MaxBytes)
	}
	if m.next == nil {
		m.advance(change.Revision)
	}
	return nil
}

// longestDoubt bounds how long a mirror waits to be filled anew.
const longestDoubt = 10 * time.Minute

// refillSoon lets the mirror be filled anew: at once where it is small, and where that
// takes long, or goes on, so late that it takes a twentieth of the time.
func (m *Mirror) refillSoon() {
	since := time.Since(m.began)
	took := m.took
	if m.next != nil {
		took = max(took, since)
	}
	time.AfterFunc(min(20*took-since, longestDoubt), m.refill)
}

// advance says that the mirror shows a revision, to those who wait for it too.
func (m *Mirror) advance(revision uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision.Store(revision)
	if !m.isReady {
		m.isReady = true
		close(m.ready)
	}
	if m.wanted > 0 && m.wanted <= revision {
		close(m.reached)
		m.wanted, m.reached = 0, make(chan struct{})
	}
}

func (m *Mirror) setStale(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stale.Swap(true) {
		return
	}
	m.staled, m.cause = time.Now(), cause
}

// setLive ends what setStale began, unless the mirror is being filled anew.
func (m *Mirror) setLive() {
	if m.next == nil && !m.doubtful {
		m.stale.Store(false)
	}
}
