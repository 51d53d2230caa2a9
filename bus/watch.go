package bus

import (
	"cmp"
	"fmt"
	"time"

	"kvbus/kv"
)

// The defaults of [FollowOptions].
const (
	DefaultMaxPending      = 65_536
	DefaultMaxPendingBytes = 64 << 20
	DefaultPageSize        = 1000
	DefaultAuditInterval   = 30 * time.Second
	DefaultSilence         = 45 * time.Second
	DefaultSettle          = 2 * time.Second
)

// FollowOptions say what [Client.Follow] gives. The zero value gives all events
// from now on.
type FollowOptions struct {
	// Prefix is a raw prefix of the keys; Filter a wildcard over whole keys.
	// Both must hold.
	Prefix string
	Filter kv.Filter
	// Start is where to start; the zero value means now.
	Start kv.Start
	// State gives the current state first, and then what happens. It goes with
	// the zero Start only.
	State bool
	// KeysOnly leaves the values out, and keeps none in memory.
	KeysOnly bool
	// Restart goes on from the current state where the watch would end with
	// [kv.ErrCompacted].
	Restart bool

	// MaxPending and MaxPendingBytes bound the events that wait for the
	// consumer, by their number and by the sizes of keys and values. What is
	// beyond is fetched again later. Zero means the defaults.
	MaxPending      int
	MaxPendingBytes int
	// PageSize is the most events or entries that one request asks for; zero
	// means the default. Large values make pages smaller.
	PageSize int

	// AuditInterval is how often a watch of some of the keys asks whether it has
	// seen all events, while the store changes. Silence is how long no sign of
	// life may come before the watch asks for one. Settle is how long a
	// subscription may take to be known to all servers. Each watch varies them
	// at random. Zero means the defaults.
	AuditInterval, Silence, Settle time.Duration

	// Notify, if not nil, is told what the watch does about its own troubles. It
	// is called between two changes, by the goroutine that iterates.
	Notify func(Notice)
}

// A ChangeKind says what a [Change] is.
type ChangeKind uint8

// The kinds of changes.
const (
	// ChangeEvent: Event happened.
	ChangeEvent ChangeKind = iota + 1
	// ChangeState: Entry is in the current state.
	ChangeState
	// ChangeReady: the state is complete, and is that of Revision.
	ChangeReady
	// ChangeRestart: events are lost, for the reason in Cause. All that was given
	// before is void; the current state follows, as with [FollowOptions.State].
	ChangeRestart
)

// String returns the name of the kind: EVENT, STATE, READY or RESTART.
func (k ChangeKind) String() string {
	switch k {
	case ChangeEvent:
		return "EVENT"
	case ChangeState:
		return "STATE"
	case ChangeReady:
		return "READY"
	case ChangeRestart:
		return "RESTART"
	default:
		return fmt.Sprintf("ChangeKind(%d)", uint8(k))
	}
}

// A Change is what [Client.Follow] yields. Which fields are set depends on Kind.
type Change struct {
	Kind  ChangeKind
	Event kv.Event
	Entry kv.Entry
	// Revision is that of the event, of the entry, or of the complete state.
	Revision uint64
	Cause    error
}

// A NoticeKind says what a [Notice] is about.
type NoticeKind uint8

// The kinds of notices.
const (
	// NoticeStale: the service can't be asked, for the reason in Err, or gives no
	// sign of life; what the watch gives may lag behind from now on. It keeps trying.
	NoticeStale NoticeKind = iota + 1
	// NoticeLive: the watch is up to date again.
	NoticeLive
	// NoticeRepaired: events that did not arrive by themselves were fetched, or may
	// have been, for the reason in Err.
	NoticeRepaired
	// NoticeUnaudited: nothing tells of a loss, but an audit came too late to tell
	// that there was none: the store no longer holds the events. It concerns those
	// up to Revision.
	NoticeUnaudited
)

// String returns the name of the kind.
func (k NoticeKind) String() string {
	switch k {
	case NoticeStale:
		return "stale"
	case NoticeLive:
		return "live"
	case NoticeRepaired:
		return "repaired"
	case NoticeUnaudited:
		return "unaudited"
	default:
		return fmt.Sprintf("NoticeKind(%d)", uint8(k))
	}
}

// A Notice is what a watch tells of itself.
type Notice struct {
	Kind NoticeKind
	// Revision is how far the watch has come.
	Revision uint64
	Err      error
}

// withDefaults fills in what is zero.
func (o FollowOptions) withDefaults() FollowOptions {
	o.MaxPending = cmp.Or(o.MaxPending, DefaultMaxPending)
	o.MaxPendingBytes = cmp.Or(o.MaxPendingBytes, DefaultMaxPendingBytes)
	o.PageSize = cmp.Or(o.PageSize, DefaultPageSize)
	o.AuditInterval = cmp.Or(o.AuditInterval, DefaultAuditInterval)
	o.Silence = cmp.Or(o.Silence, DefaultSilence)
	o.Settle = cmp.Or(o.Settle, DefaultSettle)
	return o
}

func (o FollowOptions) validate() error {
	if err := kv.ValidatePrefix(o.Prefix); err != nil {
		return err
	}
	if _, set := o.Start.Revision(); set && o.State {
		return fmt.Errorf("%w: a watch starts with the current state or after a revision, not both", kv.ErrInvalidArgument)
	}
	return checkBounds([]bound{
		{"MaxPending", int64(o.MaxPending)}, {"MaxPendingBytes", int64(o.MaxPendingBytes)}, {"PageSize", int64(o.PageSize)},
		{"AuditInterval", int64(o.AuditInterval)}, {"Silence", int64(o.Silence)}, {"Settle", int64(o.Settle)},
	})
}
