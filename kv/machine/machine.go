package machine

import (
	"cmp"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tidwall/btree"

	"kvbus/kv"
)

// Defaults of [Options].
const (
	DefaultReplayEvents = 65_536
	DefaultReplayBytes  = 64 << 20
)

// Options configure a machine.
type Options struct {
	// Limits are those in force at the start; zero fields mean no limit.
	Limits kv.Limits
	// ReplayEvents and ReplayBytes bound the ring of recent events by their
	// number and by the sizes of their keys, values and traces plus [EventOverhead]
	// each. Zero means the default. [math.MaxInt] and [math.MaxInt64] are no
	// bounds, for who drops events with [Machine.Forget].
	ReplayEvents int
	ReplayBytes  int64
}

// A Machine is the state: live entries, their deadlines, counts, limits, the
// revision, the outcomes of commands with request ids, and the ring of recent
// events.
type Machine struct {
	table     table
	index     btree.Map[string, *node]
	deadlines deadlines
	ring      ring
	requests  requests
	views     []*View

	limits   kv.Limits
	keys     int64
	bytes    int64
	now      int64
	revision atomic.Uint64
	clearing atomic.Pointer[string] // prefix of the clear under way; nil while none is
}

// A node is a live key; it stays in its place for as long as the key lives.
type node struct {
	key string
	// current is the version that reads see, nil once the key is gone.
	current atomic.Pointer[version]
	// slot is the node's place in the deadline queue, -1 for none.
	slot int32
}

// inlineKey is the length of the longest key that lies beside its node.
const inlineKey = 32

// newNode returns a node for a copy of key, which may be part of something
// larger, such as a subject. A short key lies in the same block of memory as
// its node: to compare it costs no further cache miss, and it needs no
// allocation of its own.
func newNode(key string) *node {
	if len(key) > inlineKey {
		return &node{key: strings.Clone(key), slot: -1}
	}
	block := &struct {
		node
		bytes [inlineKey]byte
	}{node: node{slot: -1}}
	copy(block.bytes[:], key)
	// The bytes are never written again, as a string's must not be.
	block.key = unsafe.String(&block.bytes[0], len(key))
	return &block.node
}

// A version is what one mutation made of a key; it never changes.
type version struct {
	value    string
	revision uint64
	deadline int64 // Unix nanoseconds; 0 for none
}

// New returns an empty machine at revision 0.
func New(opts Options) *Machine {
	m := &Machine{
		limits: opts.Limits,
		ring:   newRing(cmp.Or(opts.ReplayEvents, DefaultReplayEvents), cmp.Or(opts.ReplayBytes, DefaultReplayBytes)),
	}
	m.table.init()
	return m
}

// Revision returns the revision of the last mutation. It needs no lock.
func (m *Machine) Revision() uint64 { return m.revision.Load() }

// entry returns the entry that the version makes of its node.
func (v *version) entry(n *node) kv.Entry {
	if v.deadline == 0 {
		return kv.Entry{Key: n.key, Value: v.value, Revision: v.revision}
	}
	return kv.Entry{Key: n.key, Value: v.value, Revision: v.revision, ExpiresAt: instant(v.deadline)}
}

// NextDeadline returns the earliest deadline of a live entry, in Unix
// nanoseconds, and false if no entry has one.
func (m *Machine) NextDeadline() (int64, bool) {
	n := m.deadlines.next()
	if n == nil {
		return 0, false
	}
	return n.current.Load().deadline, true
}

// DeadlineBound returns a time not after [Machine.NextDeadline], and
// [math.MaxInt64] if no entry has a deadline. It is cheaper: it does not look
// whether the entry in front got a later deadline since.
func (m *Machine) DeadlineBound() int64 { return m.deadlines.bound() }

// Events copies the events after a revision into buf, in revision order and
// with none left out, and returns how many those were: 0 if there is none yet. It
// copies large ones a few at a time.
// It fails with [kv.ErrCompacted] if the ring no longer holds the first of them.
func (m *Machine) Events(after uint64, buf []kv.Event) (int, error) {
	return m.ring.read(after, m.Revision(), buf)
}

// Forget drops the events up to a revision from the ring.
func (m *Machine) Forget(revision uint64) {
	for m.ring.events > 0 && m.ring.oldest(m.Revision()) <= revision {
		m.ring.drop()
	}
}

// Info returns what the machine knows of a store's description.
func (m *Machine) Info() kv.Info {
	revision := m.Revision()
	return kv.Info{
		Revision:       revision,
		OldestRevision: m.ring.oldest(revision),
		Keys:           m.keys,
		Bytes:          m.bytes,
		Limits:         m.limits,
	}
}

// instant turns Unix nanoseconds into a time in UTC, and 0 into the zero time.
func instant(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
