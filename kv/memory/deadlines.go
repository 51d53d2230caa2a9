package memory

import (
	"math"
	"time"
)

// clockCheck is how often the timer looks at the wall clock while a deadline is
// pending: a clock that is set forward is noticed that soon.
const clockCheck = time.Second

// arm sets the timer for a deadline, in Unix nanoseconds; math.MaxInt64 is none.
func (s *Store) arm(due int64) {
	if due == math.MaxInt64 || s.closed.Load() {
		return
	}
	s.armed = due
	wait := min(clockCheck, time.Until(time.Unix(0, due)))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.sweep)
	} else {
		s.timer.Reset(wait)
	}
}

// sweep is the timer's shot.
func (s *Store) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = 0
	if s.closed.Load() {
		return
	}
	s.expire()
	if due, ok := s.machine.NextDeadline(); ok {
		s.arm(due)
	}
}

// expire takes out what has expired by now.
func (s *Store) expire() {
	before := s.machine.Revision()
	s.machine.Expire(time.Now().UnixNano())
	wake(s.settle(before))
}
