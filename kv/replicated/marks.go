package replicated

import (
	"sync"
	"time"
)

// markInterval is the time after a mark from which the next record is one.
const markInterval = 50 * time.Millisecond

// Marks are records like all others, but that JetStream shows them to the
// publisher of the events. By them it elects the publisher, and remembers how far
// that has come. One in so many milliseconds is enough, which costs less than
// each record would.
type marks struct {
	mu       sync.Mutex
	sequence uint64 // of the last one
	at       time.Time
}

// came notes the mark at sequence.
func (m *marks) came(sequence uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sequence, m.at = max(m.sequence, sequence), time.Now()
}

// due reports whether the next record should be a mark, and takes it that it is.
func (m *marks) due() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.at) < markInterval {
		return false
	}
	m.at = time.Now()
	return true
}

// Marked returns the sequence of the last mark that this worker has applied.
func (s *Store) Marked() uint64 {
	s.marks.mu.Lock()
	defer s.marks.mu.Unlock()
	return s.marks.sequence
}

// Mark appends a mark to the log, in the background; nothing is done where that
// fails.
func (s *Store) Mark() {
	s.appended.read(func(error) {})
}

// MarkSubject is the subject of the marks in the log.
func (s *Store) MarkSubject() string { return markSubject(s.opts.Prefix) }
