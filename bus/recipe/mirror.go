package recipe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kvbus/bus"
	"kvbus/kv"
)

// The defaults of [MirrorOptions].
const (
	DefaultMirrorKeys  = 100_000
	DefaultMirrorBytes = 256 << 20
)

// The errors of a mirror, beside those of the store.
var (
	// ErrNotReady: the mirror does not have all keys yet.
	ErrNotReady = errors.New("mirror is not ready")
	// ErrNotMirrored: the key is none of those that are mirrored.
	ErrNotMirrored = errors.New("key is not mirrored")
	// ErrMirrorFull: there is more to mirror than the options allow.
	ErrMirrorFull = errors.New("mirror is full")
)

// A Source is what is mirrored: the client of package bus.
type Source interface {
	Follow(ctx context.Context, opts bus.FollowOptions) iter.Seq2[bus.Change, error]
	Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error)
}

// MirrorOptions configure a mirror.
type MirrorOptions struct {
	// FollowOptions say which keys, by Prefix and Filter, and how they are
	// watched. Notify is told when the mirror can't be kept fresh. Start, State,
	// KeysOnly and Restart are set by the mirror.
	bus.FollowOptions
	// MaxKeys bounds the number of keys, MaxBytes the sizes of keys and values
	// together; 0 means the defaults. A mirror that would be larger ends with
	// [ErrMirrorFull].
	MaxKeys  int
	MaxBytes int64
}

// A Mirror is a copy, in this process, of all keys that its options select. Its
// methods are safe for concurrent use.
type Mirror struct {
	source Source
	opts   MirrorOptions

	current  atomic.Pointer[mirrorTable] // nil before the first one is complete, and after the end
	revision atomic.Uint64
	stale    atomic.Bool
	// Of the goroutine that follows:
	doubtful bool          // until it is filled anew
	next     *mirrorTable  // what is being filled; nil while current is kept up
	refill   func()        // ends the watch, for one that begins with the state
	began    time.Time     // when the watch did
	took     time.Duration // until it had the state

	cancel context.CancelFunc
	ended  chan struct{}
	ready  chan struct{}

	mu      sync.Mutex
	isReady bool // ready is closed
	staled  time.Time
	cause   error         // why it is stale
	wanted  uint64        // the lowest revision that is waited for; 0 if none is
	reached chan struct{} // closed when wanted was reached
	err     error         // why the mirror has ended
}

// NewMirror starts to mirror the keys that opts select. [Mirror.Close] ends it.
func NewMirror(source Source, opts MirrorOptions) (*Mirror, error) {
	if opts.MaxKeys < 0 || opts.MaxBytes < 0 {
		return nil, fmt.Errorf("%w: a mirror of %d keys and %d bytes", kv.ErrInvalidArgument, opts.MaxKeys, opts.MaxBytes)
	}
	if err := kv.ValidatePrefix(opts.Prefix); err != nil {
		return nil, err
	}
	opts.MaxKeys = cmp.Or(opts.MaxKeys, DefaultMirrorKeys)
	opts.MaxBytes = cmp.Or(opts.MaxBytes, DefaultMirrorBytes)
	ctx, cancel := context.WithCancel(context.Background())
	m := &Mirror{
		source:  source,
		opts:    opts,
		cancel:  cancel,
		ended:   make(chan struct{}),
		ready:   make(chan struct{}),
		reached: make(chan struct{}),
	}
	told := opts.Notify
	m.opts.Start, m.opts.State, m.opts.KeysOnly, m.opts.Restart = kv.Start{}, true, false, true
	m.opts.Notify = func(n bus.Notice) {
		switch n.Kind {
		case bus.NoticeStale:
			m.setStale(n.Err)
		case bus.NoticeLive:
			m.setLive()
		case bus.NoticeUnaudited:
			// What was lost by then, if anything was, does not come any more.
			m.setStale(n.Err)
			m.doubtful = true
			m.refillSoon()
		}
		if told != nil {
			told(n)
		}
	}
	go m.run(ctx)
	return m, nil
}

// Close ends the mirror. Closing it again does nothing.
func (m *Mirror) Close() {
	m.cancel()
	<-m.ended
}

// Ready returns a channel that is closed when the mirror has all keys, or has
// ended; [Mirror.Err] tells which.
func (m *Mirror) Ready() <-chan struct{} { return m.ready }

// Err returns why the mirror has ended, nil if it has not.
func (m *Mirror) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Get returns the live entry of key as the mirror knows it, without asking
// anybody. A stale mirror goes on to answer with what it knew last. An entry is
// not returned after its deadline, by the clock of this process as it was when the
// entry came.
//
// It fails with [kv.ErrNotFound], [ErrNotMirrored] for a key that the options do
// not select, [ErrNotReady] before the mirror is ready, and the error of
// [Mirror.Err] after its end.
func (m *Mirror) Get(key string) (kv.Entry, error) {
	table := m.current.Load()
	if table == nil {
		if err := m.Err(); err != nil {
			return kv.Entry{}, err
		}
		return kv.Entry{}, ErrNotReady
	}
	switch entry := table.get(key); {
	case entry == nil && !m.selects(key):
		return kv.Entry{}, fmt.Errorf("%w: %q", ErrNotMirrored, key)
	case entry == nil || table.expired(entry):
		return kv.Entry{}, kv.ErrNotFound
	default:
		return entry.Entry, nil
	}
}

func (m *Mirror) selects(key string) bool {
	return strings.HasPrefix(key, m.opts.Prefix) && m.opts.Filter.Match(key)
}

// Read is [Mirror.Get] where that can answer and is not known to be stale, and
// asks the source otherwise.
func (m *Mirror) Read(ctx context.Context, key string) (kv.Entry, error) {
	if !m.stale.Load() {
		entry, err := m.Get(key)
		if err == nil || errors.Is(err, kv.ErrNotFound) {
			return entry, err
		}
	}
	return m.source.Get(ctx, key, kv.ReadOptions{})
}

// All iterates over the live entries that the mirror has, in no order. What
// changes meanwhile may be seen or not.
func (m *Mirror) All() iter.Seq[kv.Entry] {
	return func(yield func(kv.Entry) bool) {
		table := m.current.Load()
		if table == nil {
			return
		}
		table.entries.Range(func(_, e any) bool {
			entry, _ := e.(*mirrorEntry)
			return table.expired(entry) || yield(entry.Entry)
		})
	}
}

// Revision returns the revision of the last change of a mirrored key that the
// mirror shows, or that of the store from when the mirror was filled; 0 before it
// is ready. It goes back only if that of the store does.
func (m *Mirror) Revision() uint64 { return m.revision.Load() }

// WaitFor waits until the mirror shows a revision, which is that of a mirrored
// key, or 0 to wait until it is ready: so one reads what one has written. Changes
// of other keys do not come by. It fails with the error of ctx, or that of
// [Mirror.Err] if the mirror has ended.
func (m *Mirror) WaitFor(ctx context.Context, revision uint64) error {
	select {
	case <-m.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		m.mu.Lock()
		if m.err != nil || m.revision.Load() >= revision {
			defer m.mu.Unlock()
			return m.err
		}
		if m.wanted == 0 || revision < m.wanted {
			m.wanted = revision
		}
		reached := m.reached
		m.mu.Unlock()
		select {
		case <-reached:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// MirrorStatus describes a mirror.
type MirrorStatus struct {
	// Ready says that the mirror has all keys; it may be stale.
	Ready bool
	// Stale says that the mirror may lag behind, since a time and for a reason.
	Stale bool
	Since time.Time
	Cause error
	// Revision is as [Mirror.Revision]; Keys and Bytes are what the mirror holds.
	Revision uint64
	Keys     int64
	Bytes    int64
}

// Status describes the mirror now.
func (m *Mirror) Status() MirrorStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := MirrorStatus{Revision: m.revision.Load()}
	if m.stale.Load() {
		s.Stale, s.Since, s.Cause = true, m.staled, m.cause
	}
	if table := m.current.Load(); table != nil {
		s.Ready, s.Keys, s.Bytes = true, table.keys.Load(), table.bytes.Load()
	}
	return s
}
