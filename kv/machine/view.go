package machine

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"kvbus/kv"
)

// A View is the machine frozen at one revision. Taking one costs constant
// time; commands go on beside it, and keep for it the versions that they
// replace. Its methods need no lock. Close it when done.
type View struct {
	revision uint64
	time     int64
	limits   kv.Limits
	index    *btree.Map[string, *node]
	requests requestList
	closed   atomic.Bool

	mu   sync.Mutex
	kept map[*node]*version // versions of this view that were replaced since
}

// View freezes the current state.
func (m *Machine) View() *View {
	m.dropClosedViews()
	v := &View{
		revision: m.Revision(),
		time:     m.now,
		limits:   m.limits,
		index:    m.index.Copy(),
		requests: m.requests.list,
		kept:     make(map[*node]*version),
	}
	m.views = append(m.views, v)
	return v
}

// Close lets go of what the view holds. Closing it again does nothing. No other
// method may be called then.
func (v *View) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed.Store(true)
	v.index, v.requests, v.kept = nil, requestList{}, nil
}

// keepForViews hands a version that is about to be replaced to the views that
// show it. It must come before the replacement, as a view looks first at the
// node and then at what was kept.
func (m *Machine) keepForViews(n *node, old *version) {
	if len(m.views) == 0 || old == nil {
		return
	}
	m.dropClosedViews()
	for _, v := range m.views {
		if old.revision <= v.revision {
			v.keep(n, old)
		}
	}
}

func (v *View) keep(n *node, old *version) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed.Load() {
		v.kept[n] = old
	}
}

func (m *Machine) dropClosedViews() {
	open := m.views[:0]
	for _, v := range m.views {
		if !v.closed.Load() {
			open = append(open, v)
		}
	}
	clear(m.views[len(open):])
	m.views = open
}

// version returns the node's version as of the view.
func (v *View) version(n *node) *version {
	if current := n.current.Load(); current != nil && current.revision <= v.revision {
		return current
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.kept[n]
}

// Scan returns the page of entries that q selects, without those whose
// deadline is not after now. Its errors are those of [kv.Store.Scan].
func (v *View) Scan(q kv.Query, now time.Time) (kv.Page, error) {
	if err := q.Validate(); err != nil {
		return kv.Page{}, err
	}
	if err := kv.ValidatePrefix(q.Cursor); err != nil {
		// A logged key may be of a later Unicode; the page before ended with it.
		if _, isKey := v.index.Get(q.Cursor); !isKey {
			return kv.Page{}, fmt.Errorf("%w: the cursor %.40q is of no page", kv.ErrInvalidArgument, q.Cursor)
		}
	}
	page := kv.Page{Revision: v.revision}
	bound := commonPrefix(q)
	size := 0
	v.index.Ascend(max(bound, q.Cursor), func(key string, n *node) bool {
		if !strings.HasPrefix(key, bound) {
			return false
		}
		if key == q.Cursor || !strings.HasPrefix(key, q.Prefix) || !q.Filter.Match(key) {
			return true
		}
		version := v.version(n)
		entry := version.entry(n)
		if entry.Expired(now) {
			return true
		}
		if q.KeysOnly {
			entry.Value = ""
		}
		size += len(key) + len(entry.Value)
		full := q.Limit > 0 && len(page.Entries) == q.Limit || q.MaxBytes > 0 && size > q.MaxBytes
		if full && len(page.Entries) > 0 {
			page.Cursor = page.Entries[len(page.Entries)-1].Key
			return false
		}
		page.Entries = append(page.Entries, entry)
		return true
	})
	return page, nil
}

// commonPrefix returns a prefix that every key selected by q has.
func commonPrefix(q kv.Query) string {
	if literal := q.Filter.Literal(); len(literal) > len(q.Prefix) {
		return literal
	}
	return q.Prefix
}
