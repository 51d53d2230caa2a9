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
		if own {
			outcomes = make([]outcome, 0, len(b.Commands))
		}
		verdict, outcomes = step(m, s.sessions, b, now, outcomes)
		if own && (s.begun == 0 || now < s.begun) { // the log's clock may be set back
			s.begun = now
		}
		s.applied.Store(sequence)
		s.due.bytes += int64(size + storedOverhead + len(s.appended.subject))
		due, revision = m.DeadlineBound(), m.Revision()
	})
	if err != nil {
		return // closed
	}
	s.positions.add(revision)
	if own && verdict == accepted {
		s.appended.complete(b.Number, outcomes)
	}
	wake.Up()
	s.deadline.set(due)
}

// place returns how many other workers take their turn before this one. The lock of
// the machine is held.
func (s *Store) place() int { return s.sessions.place(s.id, s.begun) }

// step carries out a batch on the machine and the sessions that belong to it.
// The outcomes of its commands are appended, unless outcomes is nil. What is due
// expires before the first of them; the first sweep among them counts it.
func step(m *machine.Machine, sessions sessions, b *batch, now int64, outcomes []outcome) (verdict, []outcome) {
	expired := m.Expire(now)
	verdict := sessions.judge(b, now)
	if verdict != accepted {
		return verdict, outcomes
	}
	for i := range b.Commands {
		result, err := m.ApplyLogged(now, &b.Commands[i])
		if b.Commands[i].Op == kv.OpSweep {
			result.Number, expired = result.Number+int64(expired), 0
		}
		if outcomes != nil {
			outcomes = append(outcomes, outcome{result, err})
		}
	}
	return verdict, outcomes
}
