package replicated

import (
	"context"
	"fmt"
	"sync"

	"kvbus/kv"
)

// maxPositions bounds the records whose revisions are remembered.
const maxPositions = 1 << 20

// positions remember which revision each recent record of the log led to.
type positions struct {
	mu        sync.Mutex
	first     uint64 // sequence of revisions[0]
	revisions []uint64
	changed   chan struct{} // closed at the next record; nil while nobody waits
}

// reset forgets all; sequence led to revision.
func (p *positions) reset(sequence, revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first, p.revisions = sequence, []uint64{revision}
	p.wake()
}

// add notes the revision of the next record.
func (p *positions) add(revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.revisions) == maxPositions {
		kept := p.revisions[maxPositions/2:]
		p.first += maxPositions / 2
		p.revisions = append(make([]uint64, 0, maxPositions), kept...)
	}
	p.revisions = append(p.revisions, revision)
	p.wake()
}

func (p *positions) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// at returns the revision that the record at sequence led to, or a channel that
// is closed when it may be known.
func (p *positions) at(sequence uint64) (uint64, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case sequence < p.first:
		return 0, nil, fmt.Errorf("%w: log record %d; this worker knows of %d and later ones", kv.ErrCompacted, sequence, p.first)
	case sequence < p.first+uint64(len(p.revisions)):
		return p.revisions[sequence-p.first], nil, nil
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return 0, p.changed, nil
}

// RevisionAfter returns the revision of the store after the record at sequence
// of the log. It waits until this worker has applied that record, and fails
// with [kv.ErrClosed] if it never will, with [kv.ErrCompacted] if that was too
// long ago, and with the context's error.
func (s *Store) RevisionAfter(ctx context.Context, sequence uint64) (uint64, error) {
	for {
		revision, changed, err := s.positions.at(sequence)
		if changed == nil {
			return revision, err
		}
		if s.shared.Closed() {
			return 0, kv.ErrClosed
		}
		s.feed.expect(sequence)
		select {
		case <-changed:
		case <-s.closed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// AppliedAfter returns a channel that is closed once this worker has applied a
// record after the one at sequence.
func (s *Store) AppliedAfter(sequence uint64) <-chan struct{} {
	_, changed, _ := s.positions.at(sequence + 1)
	if changed == nil { // it has
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return changed
}

// Applied returns the sequence of the last record that this worker has applied.
func (s *Store) Applied() uint64 { return s.applied.Load() }

// Stream returns the name of the log's stream.
func (s *Store) Stream() string { return streamName(s.opts.Prefix) }

// Replicas returns the number of servers that hold the log, as it was when this
// worker looked last.
func (s *Store) Replicas() int { return int(s.replicas.Load()) }

// Closed is closed when the store is.
func (s *Store) Closed() <-chan struct{} { return s.closed }

// Events is [machine.Shared.Events].
func (s *Store) Events(after uint64, buf []kv.Event) (int, error) { return s.shared.Events(after, buf) }

// OldestRevision returns the revision of the oldest event held.
func (s *Store) OldestRevision() uint64 { return s.shared.OldestRevision() }
