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
	// deadlineRetry is the pause where the log's clock is behind this worker's.
	deadlineRetry = 2 * time.Millisecond
)

// A deadlineTimer appends an empty batch when a deadline has passed and nothing
// else moves the log's time on.
type deadlineTimer struct {
	store *Store

	mu      sync.Mutex
	timer   *time.Timer
	due     int64 // Unix nanoseconds; 0 while it is not set
	stopped bool
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
	due, pending := int64(0), false
	_, err := d.store.shared.Update(func(m *machine.Machine) { due, pending = m.NextDeadline() })
	if err != nil || !pending {
		return
	}
	if time.Now().UnixNano() < due {
		d.set(due)
		return
	}
	d.store.appended.read(func(error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.stopped && d.due == 0 {
			d.arm(due, deadlineRetry) // finds nothing due, unless the batch was lost or early
		}
	})
}

func (d *deadlineTimer) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
