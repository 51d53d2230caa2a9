package recipe

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"kvbus/kv"
)

// A mirrorTable has one writer. Readers wait for nobody: they take the entries,
// which don't change, out of a [sync.Map]. Reading the monotonic clock alone is
// twice as fast as reading the time, and is most of what a look-up costs; so that
// is what deadlines are kept by.
type mirrorTable struct {
	entries     sync.Map // of *mirrorEntry by key
	begun       time.Time
	keys, bytes atomic.Int64
}

type mirrorEntry struct {
	kv.Entry
	expires time.Duration // since the table was begun; 0 for never
}

func newMirrorTable() *mirrorTable { return &mirrorTable{begun: time.Now()} }

func (t *mirrorTable) get(key string) *mirrorEntry {
	e, _ := t.entries.Load(key)
	entry, _ := e.(*mirrorEntry)
	return entry
}

// expired reports whether the deadline of an entry has passed.
func (t *mirrorTable) expired(e *mirrorEntry) bool {
	return e.expires != 0 && time.Since(t.begun) >= e.expires
}

func (t *mirrorTable) put(entry kv.Entry) {
	next := &mirrorEntry{Entry: entry}
	if !entry.ExpiresAt.IsZero() {
		now := time.Now()
		age, left := now.Sub(t.begun), max(0, entry.ExpiresAt.Sub(now))
		next.expires = max(1, age+min(left, math.MaxInt64-age))
	}
	e, _ := t.entries.Swap(entry.Key, next)
	if old, ok := e.(*mirrorEntry); ok {
		t.bytes.Add(int64(len(entry.Value) - len(old.Value)))
		return
	}
	t.keys.Add(1)
	t.bytes.Add(int64(len(entry.Key) + len(entry.Value)))
}

func (t *mirrorTable) remove(key string) {
	e, _ := t.entries.LoadAndDelete(key)
	if old, ok := e.(*mirrorEntry); ok {
		t.keys.Add(-1)
		t.bytes.Add(-int64(len(old.Key) + len(old.Value)))
	}
}

// errUnknownKey is of an event that does not go with what the mirror has.
var errUnknownKey = errors.New("a key that is not there was touched")

func (t *mirrorTable) apply(event *kv.Event) error {
	switch event.Kind {
	case kv.EventSet:
		t.put(kv.Entry{Key: event.Key, Value: event.Value, Revision: event.Revision, ExpiresAt: event.ExpiresAt})
	case kv.EventTouch:
		old := t.get(event.Key)
		if old == nil {
			return fmt.Errorf("%w: %w: %q at revision %d", kv.ErrInternal, errUnknownKey, event.Key, event.Revision)
		}
		t.put(kv.Entry{Key: event.Key, Value: old.Value, Revision: event.Revision, ExpiresAt: event.ExpiresAt})
	case kv.EventDelete, kv.EventExpire:
		t.remove(event.Key)
	}
	return nil
}
