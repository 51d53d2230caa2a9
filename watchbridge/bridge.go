package watchbridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/kv"
)

const (
	// retryDelay is the pause after a failure. It doubles with each attempt that
	// comes to nothing, up to maxRetryDelay.
	retryDelay    = 100 * time.Millisecond
	maxRetryDelay = 2 * time.Second
	// otherFailure is after how long a session that fails as the one before is told of
	// again: it is of another time.
	otherFailure = time.Minute
)

// A Source is a store whose events are published. What it has dropped is counted by
// the oldest revision that it holds. One that has a method OldestRevision, as [Log]
// has it, can be asked for that when it is closed, too; another one's Info can't.
type Source interface {
	Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error]
	Info(ctx context.Context) (kv.Info, error)
}

// Options configure a bridge.
type Options struct {
	// Dial makes a connection to publish on, which the bridge closes. It must
	// not reconnect by itself ([nats.NoReconnect]): events would go on it in
	// which those that the old connection lost are missing. A write that the
	// server does not take must fail in the end ([nats.FlusherTimeout]), and end
	// the connection ([nats.ReconnectOnFlusherError]): until then there is no
	// other one, and after it events would be missing here. Its error handler
	// is told of all but refused events, which the bridge counts.
	Dial func(ctx context.Context) (*nats.Conn, error)
	// Subjects are those to publish on.
	Subjects bus.Subjects
	// Logger gets what goes wrong; the default discards it.
	Logger *slog.Logger
	// BurstHeartbeat is how long after an event a heartbeat comes at most, and
	// IdleHeartbeat the time between two while nothing happens; 0 means one
	// second, and ten.
	BurstHeartbeat, IdleHeartbeat time.Duration
}

// A Bridge publishes events until its source is closed.
type Bridge struct {
	source Source
	opts   Options
	logger *slog.Logger

	position  atomic.Uint64 // revision of the last event that was handed over, or is lost
	confirmed atomic.Uint64 // revision of the last event that the server has, or is lost
	newest    atomic.Uint64 // revision of the last event seen while there was no connection
	heard     atomic.Uint64 // the newest revision that a heartbeat of any worker told
	published atomic.Uint64
	lost      atomic.Uint64
	mark      atomic.Pointer[mark] // the last record of the log that was handed over

	epoch    string        // of the store, where its life is that of the bridge
	advanced chan struct{} // confirmed was raised
	cancel   context.CancelFunc
	done     chan struct{}
}

// Stats counts what a bridge did.
type Stats struct {
	// Published counts events handed to the connection, repeated ones too.
	Published uint64
	// Lost counts events that could not be published, or were not confirmed, before
	// they were dropped, and those that the server refused.
	Lost uint64
	// Revision is that of the last event that the server has confirmed.
	Revision uint64
}

// Start publishes the events of source: all that it holds, or, of a [Log], those that
// no worker has published.
func Start(source Source, opts Options) *Bridge {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.BurstHeartbeat = cmp.Or(opts.BurstHeartbeat, burstHeartbeat)
	opts.IdleHeartbeat = cmp.Or(opts.IdleHeartbeat, idleHeartbeat)
	ctx, cancel := context.WithCancel(context.Background())
	b := &Bridge{
		source:   source,
		opts:     opts,
		logger:   opts.Logger,
		advanced: make(chan struct{}, 1),
		cancel:   cancel,
		done:     make(chan struct{}),
	}
	if _, shared := source.(Log); !shared {
		b.epoch = rand.Text()
	}
	go b.run(ctx)
	return b
}

// Stats returns the counts so far.
func (b *Bridge) Stats() Stats {
	return Stats{Published: b.published.Load(), Lost: b.lost.Load(), Revision: b.confirmed.Load()}
}

// run publishes, session by session, each on a connection of its own.
func (b *Bridge) run(ctx context.Context) {
	defer close(b.done)
	defer b.cancel()
	told := ""
	for delay := retryDelay; ; delay = min(2*delay, maxRetryDelay) {
		begun, before := time.Now(), b.confirmed.Load()
		err := b.session(ctx)
		if errors.Is(err, kv.ErrClosed) || ctx.Err() != nil {
			return
		}
		if b.confirmed.Load() != before || time.Since(begun) > maxRetryDelay {
			delay = retryDelay // it went well for a while
		}
		if b.confirmed.Load() != before || time.Since(begun) > otherFailure {
			told = ""
		}
		if text := err.Error(); text != told { // the others say the same
			told = text
			b.interrupted(err)
		}
		pause(ctx, delay)
	}
}

func (b *Bridge) interrupted(failure error) {
	b.logger.Warn("publishing events was interrupted", "error", failure, "confirmed_revision", b.confirmed.Load())
}

// pause is what comes between a failure and the next attempt.
func pause(ctx context.Context, delay time.Duration) {
	select {
	case <-time.After(delay):
	case <-ctx.Done():
	}
}

// dial makes a connection. It waits for one as long as something is due, or may
// be; else it fails with [kv.ErrClosed] once the source is closed.
func (b *Bridge) dial(ctx context.Context) (*nats.Conn, error) {
	ctx, end := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer end(nil)
	looking.Go(func() {
		if b.lookAhead(ctx) && b.due() == 0 {
			end(kv.ErrClosed)
		}
	})
	for delay := retryDelay; ; delay = min(2*delay, maxRetryDelay) {
		nc, err := b.opts.Dial(ctx)
		if err == nil {
			return nc, nil
		}
		if ctx.Err() == nil && delay == retryDelay { // the others say the same
			b.interrupted(err)
		}
		pause(ctx, delay)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// after gives what comes after a revision as [kv.Store.Watch] does. Where the first
// of it is no longer held, it begins with a [*kv.LagError] and goes on.
func (b *Bridge) after(ctx context.Context, revision uint64) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		for {
			compacted := false
			for event, err := range b.source.Watch(ctx, kv.WatchOptions{Start: kv.After(revision)}) {
				if compacted = errors.Is(err, kv.ErrCompacted); compacted {
					break
				}
				if !yield(event, err) {
					return
				}
			}
			if !compacted {
				return
			}
			oldest, err := b.oldest(ctx)
			if err == nil && oldest <= revision+1 {
				err = fmt.Errorf("%w: the store has no revision %d yet", kv.ErrCompacted, revision)
			}
			if err != nil {
				yield(kv.Event{}, err)
				return
			}
			if !yield(kv.Event{}, &kv.LagError{First: revision + 1, Last: oldest - 1}) {
				return
			}
			revision = oldest - 1
		}
	}
}

// oldest returns the revision of the oldest event that the source holds.
func (b *Bridge) oldest(ctx context.Context) (uint64, error) {
	if source, ok := b.source.(interface{ OldestRevision() uint64 }); ok {
		return source.OldestRevision(), nil
	}
	info, err := b.source.Info(ctx)
	return info.OldestRevision, err
}

// tooSlow is why events of a store in memory are lost.
const tooSlow = "the bus could not take them before the ring of recent events dropped them"

func (b *Bridge) logLost(first, last uint64, reason string) {
	b.logger.Error("events were not published; watchers see a gap", "first_revision", first, "last_revision", last, "reason", reason)
}

// raise sets the confirmed revision, which never falls.
func (b *Bridge) raise(revision uint64) {
	for {
		old := b.confirmed.Load()
		if revision <= old {
			return
		}
		if b.confirmed.CompareAndSwap(old, revision) {
			break
		}
	}
	signal(b.advanced)
}
