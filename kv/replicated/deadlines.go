package replicated

import (
	"math"
	"sync"
	"time"

	"kvbus/kv/machine"
)

const (
	// clockCheck is how often the timer looks at the wall clock while a deadline
	// is pending: a clock that is set forward is noticed that soon.
	clockCheck = time.Second
	// deadlineTurn is how much longer each next worker waits after a deadline, so
	// that the first one brings it about; deadlineTurns are the most that one waits.
	deadlineTurn  = 5 * time.Millisecond
	deadlineTurns = 6
	// firstDeadlineRetry and lastDeadlineRetry bound the pause where the log's clock
	// is behind this worker's; it doubles.
	firstDeadlineRetry, lastDeadlineRetry = 2 * time.Millisecond, 100 * time.Millisecond
)

// A deadlineTimer appends an empty batch when a deadline has passed and nothing
// else moves the log's time on.
type deadlineTimer struct {
	store *Store

	mu      sync.Mutex
	timer   *time.Timer
	due     int64 // Unix nanoseconds; 0 while it is not set
	stopped bool

	tried int64 // the deadline for which a batch was appended last
	pause time.Duration
}

func (d *deadlineTimer) init(s *Store) { d.store = s }

// set lets the timer go off at due, in Unix nanoseconds, unless it goes off
// earlier; math.MaxInt64 is never.
func (d *deadlineTimer) set(due int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if due == math.MaxInt64 || d.stopped || d.due != 0 && d.due <= due {
		return
	}
	d.arm(due, min(clockCheck, time.Until(time.Unix(0, due))))
}

func (d *deadlineTimer) arm(due int64, wait time.Duration) {
	d.due = due
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.ring)
	} else {
		d.timer.Reset(wait)
	}
}

// ring looks for what is due. The batch that it appends brings the deadlines
// about when it is applied, and lets the timer be set again.
func (d *deadlineTimer) ring() {
	d.mu.Lock()
	d.due = 0
	d.mu.Unlock()
	due, pending, place := int64(0), false, 0
	_, err := d.store.shared.Update(func(m *machine.Machine) {
		due, pending = m.NextDeadline()
		place = d.store.place()
	})
	if err != nil || !pending {
		return
	}
	if turn := turnAt(due, place); time.Now().UnixNano() < turn {
		d.set(turn)
		return
	}
	pause := d.retry(due)
	d.store.appended.read(func(error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.stopped && d.due == 0 {
			d.arm(due, pause) // finds nothing due, unless the batch was lost or early
		}
	})
}

// turnAt returns when the worker in that place acts on the deadline due, in Unix
// nanoseconds: [math.MaxInt64], which is never, where that is too late to be told.
func turnAt(due int64, place int) int64 {
	wait := int64(deadlineTurn) * int64(min(place, deadlineTurns))
	if due > math.MaxInt64-wait {
		return math.MaxInt64
	}
	return due + wait
}

// retry returns the pause after which to look whether the deadline due has passed.
func (d *deadlineTimer) retry(due int64) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if due != d.tried {
		d.tried, d.pause = due, firstDeadlineRetry
	} else {
		d.pause = min(2*d.pause, lastDeadlineRetry)
	}
	return d.pause
}

func (d *deadlineTimer) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
