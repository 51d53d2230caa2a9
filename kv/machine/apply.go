package machine

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"kvbus/kv"
)

// Apply carries out cmd at the time now, in Unix nanoseconds. Its errors are
// those of [kv.Store.Do] that the state decides; a command that fails changes
// nothing but what expired before it.
func (m *Machine) Apply(now int64, cmd *kv.Command) (kv.Result, error) {
	n := m.find(cmd)
	if n == nil { // the key of a node is valid
		if err := cmd.Validate(); err != nil {
			return kv.Result{}, err
		}
	}
	return m.apply(now, cmd, n)
}

// ApplyLogged is [Machine.Apply] for a command that was valid when it was put into
// a log. It does not look at the characters of the key: which of them are letters
// changes with the Unicode tables of Go, and workers that were built with another
// release must come to the same state.
func (m *Machine) ApplyLogged(now int64, cmd *kv.Command) (kv.Result, error) {
	return m.apply(now, cmd, m.find(cmd))
}

// find returns the node of a command's key, nil where there is none.
func (m *Machine) find(cmd *kv.Command) *node {
	if !cmd.Op.OnKey() {
		return nil
	}
	return m.table.get(cmd.Key)
}

func (m *Machine) apply(now int64, cmd *kv.Command, n *node) (kv.Result, error) {
	if err := cmd.ValidateArguments(); err != nil {
		return kv.Result{}, err
	}
	expired := m.Expire(now)
	if n != nil && n.current.Load() == nil {
		n = nil // it expired just now
	}
	if cmd.RequestID != "" {
		return m.applyOnce(cmd, n)
	}
	return m.do(cmd, n, expired)
}

// do carries out a command that is valid, on the node of its key, nil where
// there is none. Expired is how many keys have expired just before.
func (m *Machine) do(cmd *kv.Command, n *node, expired int) (kv.Result, error) {
	switch cmd.Op {
	case kv.OpSet, kv.OpCompareAndSwap, kv.OpIncrement:
		return m.write(cmd, n)
	case kv.OpDelete:
		return m.delete(cmd, n)
	case kv.OpTouch:
		return m.touch(cmd, n)
	case kv.OpClear:
		return m.clear(cmd), nil
	case kv.OpSetLimits:
		m.limits = cmd.Limits
		m.requests.forget(&m.limits, m.now)
		return kv.Result{Applied: true}, nil
	case kv.OpSweep:
		return kv.Result{Applied: true, Number: int64(expired)}, nil
	}
	panic(fmt.Sprintf("machine: operation %v passed validation", cmd.Op))
}

// Expire moves the time on to now, removes every entry whose deadline is not
// after it, and returns how many those were. It forgets the outcomes of requests
// that are too old by then.
func (m *Machine) Expire(now int64) int {
	m.now = max(m.now, now)
	if m.requests.list.count > 0 {
		m.requests.forget(&m.limits, m.now)
	}
	expired := 0
	for {
		n := m.deadlines.due(m.now)
		if n == nil {
			return expired
		}
		m.remove(n, kv.EventExpire, kv.Trace{})
		expired++
	}
}

// write carries out the commands that leave a value. The node is nil where no
// live key is there.
func (m *Machine) write(cmd *kv.Command, n *node) (kv.Result, error) {
	old := n.version()
	if !old.meets(cmd.Expect) {
		if cmd.Op == kv.OpCompareAndSwap {
			return kv.Result{Revision: old.rev()}, nil
		}
		return kv.Result{Revision: old.rev()}, conflict(cmd, old)
	}
	result := kv.Result{Applied: true}
	value := cmd.Value
	if cmd.Op == kv.OpIncrement {
		number, err := increment(cmd, old)
		if err != nil {
			return kv.Result{}, err
		}
		result.Number = number
		value = strconv.FormatInt(number, 10)
	}
	if err := m.admit(cmd.Key, value, old); err != nil {
		return kv.Result{}, err
	}

	deadline := m.deadline(cmd)
	if cmd.KeepTTL && old != nil {
		deadline = old.deadline
	}
	if n == nil {
		n = m.insert(cmd.Key)
	}
	next := m.replace(n, old, value, deadline)
	m.emit(kv.EventSet, n.key, old, next, cmd.Trace)
	result.Revision = next.revision
	result.ExpiresAt = instant(deadline)
	return result, nil
}

func (m *Machine) delete(cmd *kv.Command, n *node) (kv.Result, error) {
	old := n.version()
	if !old.meets(cmd.Expect) {
		return kv.Result{Revision: old.rev()}, conflict(cmd, old)
	}
	if old == nil {
		return kv.Result{}, nil
	}
	m.remove(n, kv.EventDelete, cmd.Trace)
	return kv.Result{Applied: true, Revision: m.Revision()}, nil
}

func (m *Machine) touch(cmd *kv.Command, n *node) (kv.Result, error) {
	old := n.version()
	if old == nil {
		return kv.Result{}, nil
	}
	next := m.replace(n, old, old.value, m.deadline(cmd))
	m.emit(kv.EventTouch, n.key, old, next, cmd.Trace)
	return kv.Result{Applied: true, Revision: next.revision, ExpiresAt: instant(next.deadline)}, nil
}

func (m *Machine) clear(cmd *kv.Command) kv.Result {
	var doomed []*node
	m.index.Ascend(cmd.Key, func(key string, n *node) bool {
		if !strings.HasPrefix(key, cmd.Key) {
			return false
		}
		doomed = append(doomed, n)
		return true
	})
	prefix := cmd.Key // its address would move every command to the heap
	m.clearing.Store(&prefix)
	defer m.clearing.Store(nil)
	for _, n := range doomed {
		m.remove(n, kv.EventDelete, cmd.Trace)
	}
	return kv.Result{Applied: len(doomed) > 0, Number: int64(len(doomed))}
}

// clears reports whether a clear that is under way removes key. A read without the
// lock asks this first, and takes the key for gone: else it would see a clear half
// done.
func (m *Machine) clears(key string) bool {
	prefix := m.clearing.Load()
	return prefix != nil && strings.HasPrefix(key, *prefix)
}

// insert adds a node without a version for key.
func (m *Machine) insert(key string) *node {
	n := newNode(key)
	m.table.put(n)
	m.index.Set(n.key, n)
	m.keys++
	m.bytes += int64(len(n.key))
	return n
}

// replace gives the node a new version at a new revision.
func (m *Machine) replace(n *node, old *version, value string, deadline int64) *version {
	next := &version{value: value, revision: m.revision.Load() + 1, deadline: deadline}
	m.keepForViews(n, old)
	n.current.Store(next)
	m.revision.Store(next.revision)
	m.bytes += int64(len(value))
	if old != nil {
		m.bytes -= int64(len(old.value))
	}
	m.deadlines.update(n, next)
	return next
}

// remove takes a live node out.
func (m *Machine) remove(n *node, kind kv.EventKind, trace kv.Trace) {
	old := n.current.Load()
	m.keepForViews(n, old)
	n.current.Store(nil)
	m.table.remove(n)
	m.index.Delete(n.key)
	m.deadlines.remove(n)
	m.keys--
	m.bytes -= int64(len(n.key) + len(old.value))
	m.revision.Add(1)
	m.emit(kind, n.key, old, nil, trace)
}

// emit adds the event of the mutation that led to the current revision.
func (m *Machine) emit(kind kv.EventKind, key string, old, next *version, trace kv.Trace) {
	r := m.ring.push()
	r.kind = kind
	r.key = key
	r.previous = old.rev()
	r.time = m.now
	if trace != (kv.Trace{}) {
		t := trace // or each event would allocate one
		r.trace = &t
	}
	if next != nil {
		r.deadline = next.deadline
		if kind == kv.EventSet {
			r.value = next.value
		}
	}
	m.ring.pushed(r)
}

// admit checks the limits for writing value under key.
func (m *Machine) admit(key, value string, old *version) error {
	if limit := m.limits.MaxValueSize; limit > 0 && int64(len(value)) > limit {
		return fmt.Errorf("%w: %d bytes, the limit is %d", kv.ErrValueTooLarge, len(value), limit)
	}
	growth := int64(len(value))
	if old != nil {
		growth -= int64(len(old.value))
	} else {
		growth += int64(len(key))
		if limit := m.limits.MaxKeys; limit > 0 && m.keys >= limit {
			return fmt.Errorf("%w: %d keys are there, the limit is %d", kv.ErrQuotaExceeded, m.keys, limit)
		}
	}
	if limit := m.limits.MaxBytes; limit > 0 && growth > 0 && m.bytes+growth > limit {
		return fmt.Errorf("%w: %d bytes and %d more, the limit is %d", kv.ErrQuotaExceeded, m.bytes, growth, limit)
	}
	return nil
}

// deadline returns when the life that cmd gives ends, 0 for never.
func (m *Machine) deadline(cmd *kv.Command) int64 {
	if cmd.TTL == 0 {
		return 0
	}
	if int64(cmd.TTL) > math.MaxInt64-m.now {
		return math.MaxInt64
	}
	return m.now + int64(cmd.TTL)
}

// increment returns the sum of the number in old, 0 for none, and cmd.Delta,
// saturating at both ends of int64.
func increment(cmd *kv.Command, old *version) (int64, error) {
	if old == nil {
		return cmd.Delta, nil
	}
	number, err := strconv.ParseInt(old.value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: key %q holds no signed 64-bit decimal", kv.ErrNotANumber, cmd.Key)
	}
	switch {
	case cmd.Delta > 0 && number > math.MaxInt64-cmd.Delta:
		return math.MaxInt64, nil
	case cmd.Delta < 0 && number < math.MinInt64-cmd.Delta:
		return math.MinInt64, nil
	}
	return number + cmd.Delta, nil
}

func conflict(cmd *kv.Command, old *version) error {
	return fmt.Errorf("%w: key %q is at revision %d, not %d", kv.ErrConflict, cmd.Key, old.rev(), cmd.Expect.Revision)
}

// version returns the node's current version, nil for no node.
func (n *node) version() *version {
	if n == nil {
		return nil
	}
	return n.current.Load()
}

// rev returns the revision of a version, 0 for none.
func (v *version) rev() uint64 {
	if v == nil {
		return 0
	}
	return v.revision
}

// meets reports whether the current version of a key, nil for none, is as
// expected.
func (v *version) meets(expect kv.Expectation) bool {
	switch expect.Kind {
	case kv.ExpectAbsent:
		return v == nil
	case kv.ExpectValue:
		return v != nil && v.value == expect.Value
	case kv.ExpectRevision:
		return v.rev() == expect.Revision
	}
	return true
}
