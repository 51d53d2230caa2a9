package kvtest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"kvbus/kv"
)

// A Model is the contract of a store as the simplest program that keeps it: a
// map, and sorting where an order is asked for. It has no clock; times are Unix
// nanoseconds, at least 0. It is not safe for concurrent use.
//
// A time before the last one counts as the last one. Before a command takes
// effect every entry whose deadline is not after its time expires, in the order
// of deadlines and, among equal ones, of revisions. A malformed command changes
// nothing at all; one that fails for another reason, only what expired.
type Model struct {
	limits  kv.Limits
	now     int64
	entries map[string]modelEntry
	events  []kv.Event // the event of revision r is at r-1
	done    []Remembered
}

// A Remembered is a command with a request id and what it was answered.
type Remembered struct {
	Command kv.Command // without its trace and limits, which don't count
	Time    int64
	Result  kv.Result
	Err     error
}

type modelEntry struct {
	value    string
	revision uint64
	deadline int64 // 0 for none
}

// NewModel returns an empty model at revision 0.
func NewModel(limits kv.Limits) *Model {
	return &Model{limits: limits, entries: make(map[string]modelEntry)}
}

// Clone returns a copy that shares nothing that changes.
func (m *Model) Clone() *Model {
	c := *m
	c.entries = maps.Clone(m.entries)
	c.events = slices.Clone(m.events)
	c.done = slices.Clone(m.done)
	return &c
}

// Remembered returns the commands with a request id of which the outcome is
// remembered, in their order.
func (m *Model) Remembered() []Remembered { return slices.Clone(m.done) }

// Revision returns the revision of the last mutation.
func (m *Model) Revision() uint64 { return uint64(len(m.events)) }

// Events returns all events since the beginning; the one of revision r is at
// index r-1.
func (m *Model) Events() []kv.Event { return slices.Clone(m.events) }

// Apply carries out cmd at the time now.
//
// The checks of a write come in this order: its expectation, whether the value
// to increment is a number, the size of the value, the quota on keys, the quota
// on bytes.
func (m *Model) Apply(now int64, cmd kv.Command) (kv.Result, error) {
	if err := cmd.Validate(); err != nil {
		return kv.Result{}, err
	}
	expired := m.Expire(now)
	if cmd.RequestID == "" {
		return m.do(cmd, expired)
	}
	same := cmd
	same.Trace, same.Limits = kv.Trace{}, kv.Limits{}
	for _, before := range m.done {
		if b := before.Command; b.Op == cmd.Op && b.Key == cmd.Key && b.RequestID == cmd.RequestID {
			if b != same {
				return kv.Result{}, fmt.Errorf("%w: request id of another command", kv.ErrInvalidArgument)
			}
			return before.Result, before.Err
		}
	}
	result, err := m.do(cmd, expired)
	m.done = append(m.done, Remembered{same, m.now, result, err})
	m.forget()
	return result, err
}

// forget forgets the requests that the limits don't allow any more.
func (m *Model) forget() {
	ids, age := m.limits.RequestWindow()
	m.done = slices.DeleteFunc(m.done, func(r Remembered) bool { return m.now-r.Time >= int64(age) })
	m.done = m.done[max(0, len(m.done)-int(ids)):]
}

// do carries out a command without a look at its request id.
func (m *Model) do(cmd kv.Command, expired int) (kv.Result, error) {
	switch cmd.Op {
	case kv.OpSweep:
		return kv.Result{Applied: true, Number: int64(expired)}, nil
	case kv.OpSetLimits:
		m.limits = cmd.Limits
		m.forget()
		return kv.Result{Applied: true}, nil
	case kv.OpClear:
		return m.clear(cmd), nil
	}

	old, live := m.entries[cmd.Key]
	if !meets(cmd.Expect, old, live) {
		result := kv.Result{Revision: old.revision}
		if cmd.Op == kv.OpCompareAndSwap {
			return result, nil
		}
		return result, fmt.Errorf("%w: key %q", kv.ErrConflict, cmd.Key)
	}
	switch cmd.Op {
	case kv.OpDelete:
		if !live {
			return kv.Result{}, nil
		}
		return kv.Result{Applied: true, Revision: m.remove(kv.EventDelete, cmd.Key, cmd.Trace)}, nil
	case kv.OpTouch:
		if !live {
			return kv.Result{}, nil
		}
		return m.put(kv.EventTouch, cmd, old.value, m.deadline(cmd)), nil
	case kv.OpIncrement:
		number, err := add(old, live, cmd.Delta)
		if err != nil {
			return kv.Result{}, err
		}
		cmd.Value = strconv.FormatInt(number, 10)
		result, err := m.write(cmd)
		if err == nil {
			result.Number = number
		}
		return result, err
	default:
		return m.write(cmd)
	}
}

// Expire moves the time on to now, removes what has expired, and returns how
// many keys those were. It forgets requests that are too old.
func (m *Model) Expire(now int64) int {
	m.now = max(m.now, now)
	m.forget()
	var due []string
	for key, e := range m.entries {
		if e.deadline != 0 && e.deadline <= m.now {
			due = append(due, key)
		}
	}
	slices.SortFunc(due, func(a, b string) int {
		x, y := m.entries[a], m.entries[b]
		if x.deadline != y.deadline {
			return cmp.Compare(x.deadline, y.deadline)
		}
		return cmp.Compare(x.revision, y.revision)
	})
	for _, key := range due {
		m.remove(kv.EventExpire, key, kv.Trace{})
	}
	return len(due)
}

// NextDeadline returns the earliest deadline, and false if no entry has one.
func (m *Model) NextDeadline() (int64, bool) {
	earliest := int64(math.MaxInt64)
	found := false
	for _, e := range m.entries {
		if e.deadline != 0 {
			earliest, found = min(earliest, e.deadline), true
		}
	}
	return earliest, found
}

// Get returns the entry of key as it is live at the time now.
func (m *Model) Get(now int64, key string) (kv.Entry, bool) {
	e, ok := m.entries[key]
	if !ok || e.deadline != 0 && e.deadline <= now {
		return kv.Entry{}, false
	}
	return kv.Entry{Key: key, Value: e.value, Revision: e.revision, ExpiresAt: instant(e.deadline)}, true
}

// Scan returns the entries that q selects and that are live at the time now.
// The cursor of a page is its last key.
func (m *Model) Scan(now int64, q kv.Query) (kv.Page, error) {
	if err := q.Validate(); err != nil {
		return kv.Page{}, err
	}
	if err := kv.ValidatePrefix(q.Cursor); err != nil {
		return kv.Page{}, fmt.Errorf("%w: the cursor %q is of no page", kv.ErrInvalidArgument, q.Cursor)
	}
	page := kv.Page{Revision: m.Revision()}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		e, ok := m.Get(now, key)
		if !ok || key <= q.Cursor || !strings.HasPrefix(key, q.Prefix) || !q.Filter.Match(key) {
			continue
		}
		if q.KeysOnly {
			e.Value = ""
		}
		size += len(e.Key) + len(e.Value)
		if n := len(page.Entries); n > 0 && over(n+1, q.Limit, size, q.MaxBytes) {
			page.Cursor = page.Entries[n-1].Key
			return page, nil
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

// Replay returns the events that q selects, of a store that holds those from
// the revision oldest on.
func (m *Model) Replay(q kv.ReplayQuery, oldest uint64) (kv.Replay, error) {
	if err := q.Validate(); err != nil {
		return kv.Replay{}, err
	}
	if q.After > m.Revision() || q.After+1 < oldest {
		return kv.Replay{}, fmt.Errorf("%w: after %d of %d to %d", kv.ErrCompacted, q.After, oldest, m.Revision())
	}
	replay := kv.Replay{Revision: q.After}
	size := 0
	for _, event := range m.events[q.After:] {
		if strings.HasPrefix(event.Key, q.Prefix) && q.Filter.Match(event.Key) {
			size += len(event.Key) + len(event.Value)
			if n := len(replay.Events); n > 0 && over(n+1, q.Limit, size, q.MaxBytes) {
				replay.More = true
				return replay, nil
			}
			replay.Events = append(replay.Events, event)
		}
		replay.Revision = event.Revision
	}
	return replay, nil
}

// Info returns the counts of what is live since the last command, and the
// limits. The model holds all events, so its oldest revision is 1.
func (m *Model) Info() kv.Info {
	return kv.Info{
		Revision:       m.Revision(),
		OldestRevision: 1,
		Keys:           int64(len(m.entries)),
		Bytes:          m.bytes(),
		Limits:         m.limits,
	}
}

func (m *Model) bytes() int64 {
	total := 0
	for key, e := range m.entries {
		total += len(key) + len(e.value)
	}
	return int64(total)
}

// write puts cmd.Value under cmd.Key if the limits allow it.
func (m *Model) write(cmd kv.Command) (kv.Result, error) {
	old, live := m.entries[cmd.Key]
	if limit := m.limits.MaxValueSize; limit > 0 && int64(len(cmd.Value)) > limit {
		return kv.Result{}, fmt.Errorf("%w: %d bytes", kv.ErrValueTooLarge, len(cmd.Value))
	}
	if limit := m.limits.MaxKeys; limit > 0 && !live && int64(len(m.entries))+1 > limit {
		return kv.Result{}, fmt.Errorf("%w: keys", kv.ErrQuotaExceeded)
	}
	before := m.bytes()
	after := before + int64(len(cmd.Value)-len(old.value))
	if !live {
		after += int64(len(cmd.Key))
	}
	if limit := m.limits.MaxBytes; limit > 0 && after > limit && after > before {
		return kv.Result{}, fmt.Errorf("%w: bytes", kv.ErrQuotaExceeded)
	}
	deadline := m.deadline(cmd)
	if live && cmd.KeepTTL {
		deadline = old.deadline
	}
	return m.put(kv.EventSet, cmd, cmd.Value, deadline), nil
}

func (m *Model) clear(cmd kv.Command) kv.Result {
	var keys []string
	for key := range m.entries {
		if strings.HasPrefix(key, cmd.Key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		m.remove(kv.EventDelete, key, cmd.Trace)
	}
	return kv.Result{Applied: len(keys) > 0, Number: int64(len(keys))}
}

// put makes the mutation that leaves an entry.
func (m *Model) put(kind kv.EventKind, cmd kv.Command, value string, deadline int64) kv.Result {
	event := kv.Event{
		Kind:             kind,
		Key:              cmd.Key,
		Revision:         m.Revision() + 1,
		PreviousRevision: m.entries[cmd.Key].revision,
		Time:             instant(m.now),
		ExpiresAt:        instant(deadline),
		Trace:            cmd.Trace,
	}
	if kind == kv.EventSet {
		event.Value = value
	}
	m.entries[cmd.Key] = modelEntry{value, event.Revision, deadline}
	m.events = append(m.events, event)
	return kv.Result{Applied: true, Revision: event.Revision, ExpiresAt: event.ExpiresAt}
}

// remove makes the mutation that takes a live key away, and returns its
// revision.
func (m *Model) remove(kind kv.EventKind, key string, trace kv.Trace) uint64 {
	event := kv.Event{
		Kind:             kind,
		Key:              key,
		Revision:         m.Revision() + 1,
		PreviousRevision: m.entries[key].revision,
		Time:             instant(m.now),
		Trace:            trace,
	}
	delete(m.entries, key)
	m.events = append(m.events, event)
	return event.Revision
}

// deadline returns when the life that cmd gives ends, 0 for never.
func (m *Model) deadline(cmd kv.Command) int64 {
	if cmd.TTL == 0 {
		return 0
	}
	return saturated(m.now, int64(cmd.TTL))
}

func meets(expect kv.Expectation, old modelEntry, live bool) bool {
	switch expect.Kind {
	case kv.ExpectAbsent:
		return !live
	case kv.ExpectValue:
		return live && old.value == expect.Value
	case kv.ExpectRevision:
		return old.revision == expect.Revision
	}
	return true
}

func add(old modelEntry, live bool, delta int64) (int64, error) {
	if !live {
		return delta, nil
	}
	number, err := strconv.ParseInt(old.value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", kv.ErrNotANumber, err)
	}
	return saturated(number, delta), nil
}

// saturated returns a+b, or the end of int64 that it is beyond.
func saturated(a, b int64) int64 {
	sum := new(big.Int).Add(big.NewInt(a), big.NewInt(b))
	switch {
	case sum.IsInt64():
		return sum.Int64()
	case sum.Sign() > 0:
		return math.MaxInt64
	}
	return math.MinInt64
}

// over reports whether a page of n items and size bytes passes a bound; 0 is
// none.
func over(n, limit, size, maxBytes int) bool {
	return limit > 0 && n > limit || maxBytes > 0 && size > maxBytes
}

// instant turns Unix nanoseconds into a time in UTC, and 0 into the zero time.
func instant(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
