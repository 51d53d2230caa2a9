package machine

import (
	"fmt"
	"iter"

	"kvbus/kv"
)

// A State is what a machine is at one moment, without its entries, its
// remembered requests and its ring of events.
type State struct {
	Revision uint64
	Time     int64 // Unix nanoseconds
	Keys     int   // how many entries there are
	Limits   kv.Limits
}

// State returns the state that the view froze.
func (v *View) State() State {
	return State{Revision: v.revision, Time: v.time, Keys: v.index.Len(), Limits: v.limits}
}

// All returns all entries of the view, sorted by the bytes of their keys, also
// those whose deadline has passed since the machine's time.
func (v *View) All() iter.Seq[kv.Entry] {
	return func(yield func(kv.Entry) bool) {
		v.index.Scan(func(_ string, n *node) bool {
			return yield(v.version(n).entry(n))
		})
	}
}

// Restore returns a machine with that state, those requests in the order of
// their commands, and those entries, sorted by the bytes of their keys. Its ring
// is empty; the limits of opts don't count. It fails with the first error of
// entries, or if they or the requests can't be of that state.
func Restore(opts Options, state State, requests []Request, entries iter.Seq2[kv.Entry, error]) (*Machine, error) {
	opts.Limits = state.Limits
	m := New(opts)
	m.revision.Store(state.Revision)
	m.now = state.Time
	if err := m.restoreRequests(requests); err != nil {
		return nil, err
	}
	last := ""
	for entry, err := range entries {
		if err != nil {
			return nil, err
		}
		v := &version{value: entry.Value, revision: entry.Revision}
		if !entry.ExpiresAt.IsZero() {
			v.deadline = entry.ExpiresAt.UnixNano()
		}
		switch {
		case entry.Key <= last: // no key is empty
			return nil, fmt.Errorf("entries out of order: %q after %q", entry.Key, last)
		case v.revision == 0 || v.revision > state.Revision:
			return nil, fmt.Errorf("entry %q is of revision %d, and the state of %d", entry.Key, v.revision, state.Revision)
		case v.deadline != 0 && v.deadline <= state.Time:
			return nil, fmt.Errorf("entry %q expired before the time of the state", entry.Key)
		}
		last = entry.Key
		n := newNode(entry.Key)
		n.current.Store(v)
		m.table.put(n)
		m.index.Load(n.key, n)
		m.deadlines.update(n, v)
		m.keys++
		m.bytes += int64(len(n.key) + len(v.value))
	}
	if m.keys != int64(state.Keys) {
		return nil, fmt.Errorf("%d entries, %d were announced", m.keys, state.Keys)
	}
	return m, nil
}

func (m *Machine) restoreRequests(requests []Request) error {
	for i, r := range requests {
		switch {
		case i > 0 && r.Time < requests[i-1].Time, r.Time > m.now:
			return fmt.Errorf("request %d of %d is of another time", i+1, len(requests))
		case r.Revision > m.Revision():
			return fmt.Errorf("request %d of %d has revision %d, and the state %d", i+1, len(requests), r.Revision, m.Revision())
		case m.requests.byID[r.ID] != nil:
			return fmt.Errorf("request %d of %d is there twice", i+1, len(requests))
		case !r.Failure.Valid():
			return fmt.Errorf("request %d of %d has failure %d", i+1, len(requests), r.Failure)
		}
		m.requests.add(r)
	}
	m.requests.forget(&m.limits, m.now)
	return nil
}
