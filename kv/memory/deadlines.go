package memory

import (
	"math"
	"time"

	"kvbus/kv/machine"
)

// clockCheck is how often the alarm looks at the wall clock while a deadline is
// pending: a clock that is set forward is noticed that soon.
const clockCheck = time.Second

// An alarm calls ring at a deadline.
type alarm struct {
	ring  func()
	timer *time.Timer
	due   int64 // Unix nanoseconds; 0 while it is not set
}

// set lets the alarm go off at due, in Unix nanoseconds, unless it goes off
// earlier; math.MaxInt64 is never.
func (a *alarm) set(due int64) {
	if due == math.MaxInt64 || a.due != 0 && a.due <= due {
		return
	}
	a.due = due
	wait := min(clockCheck, time.Until(time.Unix(0, due)))
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, a.ring)
	} else {
		a.timer.Reset(wait)
	}
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// sweep is the alarm's call.
func (s *Store) sweep() {
	wake, err := s.shared.Update(func(m *machine.Machine) {
		m.Expire(time.Now().UnixNano())
		s.alarm.due = 0
		s.alarm.set(m.DeadlineBound())
	})
	if err != nil {
		return // closed
	}
	wake.Up()
}
