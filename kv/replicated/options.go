package replicated

import (
	"cmp"
	"log/slog"
	"time"

	"kvbus/kv"
)

// Defaults of [Options].
const (
	DefaultTimeout    = 5 * time.Second
	DefaultMaxPending = 16_384

	DefaultSnapshotBytes = 64 << 20
	DefaultSnapshotAge   = time.Hour
	DefaultLogTail       = 100
)

// Options configure a store. The zero value means the defaults.
type Options struct {
	// Prefix names the log; stores with the same one on the same JetStream
	// share their state. The default is "kv".
	Prefix string
	// Replicas is the number of servers that hold the log: 1, 3 or 5. A log that
	// has others is changed to it. 0 means those that the log has; one that is
	// made has NewReplicas then, of which the default is 1.
	Replicas    int
	NewReplicas int
	// Alone tells that the server has no others beside it. One that can't store the
	// log is [ErrNoStore] then; in a cluster it is waited for another.
	Alone bool
	// Limits of the store; all zero means [kv.DefaultLimits]. They are part of
	// the shared state: a store that finds others changes them for all.
	Limits kv.Limits
	// ReplayEvents and ReplayBytes bound the ring of recent events; zero means
	// the defaults of [machine.Options].
	ReplayEvents int
	ReplayBytes  int64
	// Consistency is that of reads that don't ask for one; the default is
	// [kv.Linearizable].
	Consistency kv.Consistency
	// Timeout bounds how long a command or a linearizable read waits to be appended
	// to the log, and how long its batch waits to be seen there.
	Timeout time.Duration
	// MaxPending bounds the commands and reads that wait for the log.
	MaxPending int
	// SyncAlways tells that the servers of the log write each record to the disk
	// before they acknowledge it. It is a setting of theirs; here it is told.
	SyncAlways bool
	// MaxLogBytes bounds the log on disk, and MaxSnapshotsBytes the snapshots, of
	// which there are up to three while one is written; 0 means no limit. A full
	// log takes no commands; where a snapshot finds no room, the log grows.
	MaxLogBytes       int64
	MaxSnapshotsBytes int64
	// SnapshotBytes is the size of the log since the last snapshot, in bytes,
	// that brings about a new one; SnapshotAge is the time, if the log has gone
	// on since.
	SnapshotBytes int64
	SnapshotAge   time.Duration
	// LogTail is the number of records that are kept before the oldest snapshot,
	// for workers that lag.
	LogTail uint64
	// Cursor is the name of the log's consumer that remembers how far the events
	// are published; a state is forgotten only after that. Empty: nobody
	// publishes.
	Cursor string
	// Logger gets what goes wrong, and what takes long; the default discards it.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Prefix = cmp.Or(o.Prefix, "kv")
	o.NewReplicas = cmp.Or(o.NewReplicas, 1)
	if o.Limits == (kv.Limits{}) {
		o.Limits = kv.DefaultLimits()
	}
	o.Consistency = cmp.Or(o.Consistency, kv.Linearizable)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.MaxPending = cmp.Or(o.MaxPending, DefaultMaxPending)
	o.SnapshotBytes = cmp.Or(o.SnapshotBytes, DefaultSnapshotBytes)
	o.SnapshotAge = cmp.Or(o.SnapshotAge, DefaultSnapshotAge)
	o.LogTail = cmp.Or(o.LogTail, DefaultLogTail)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
