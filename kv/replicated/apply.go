package replicated

import (
	"kvbus/kv"
	"kvbus/kv/machine"
)

// An outcome is what a command of this worker's batch came to.
type outcome struct {
	result kv.Result
	err    error
}

// apply carries out a batch that the log took at the time now, in Unix
// nanoseconds, and of that size there, in bytes, and answers it if it is this
// worker's.
func (s *Store) apply(sequence uint64, now int64, b *batch, size int) {
	own := b.Worker == s.id
	var (
		outcomes []outcome
		verdict  verdict
		due      int64
		revision uint64
	)
	wake, err := s.shared.Update(func(m *machine.Machine) {
		m.Expire(now)
		if verdict = s.sessions.judge(b, now); verdict == accepted {
			for i := range b.Commands {
				result, err := m.Apply(now, &b.Commands[i])
				if own {
					outcomes = append(outcomes, outcome{result, err})
				}
			}
		}
		s.applied.Store(sequence)
		s.due.bytes += int64(size + storedOverhead + len(s.appended.subject))
		due, revision = m.DeadlineBound(), m.Revision()
	})
	if err != nil {
		return // closed
	}
	s.positions.add(revision)
	if own {
		switch verdict {
		case accepted:
			s.appended.complete(b.Number, outcomes)
		case outOfOrder:
			s.appended.resend()
		}
	}
	wake.Up()
	s.deadline.set(due)
}
