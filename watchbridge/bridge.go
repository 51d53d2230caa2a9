package watchbridge

import (
	"context"
	"crypto/rand"
	"errors"
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
	// confirmDelay is how long after a publication the bridge asks the server
	// for a confirmation: the time in which more of them gather behind one
	// round trip.
	confirmDelay = 50 * time.Millisecond
	// confirmTimeout is how long it waits for the answer.
	confirmTimeout = 5 * time.Second
	// retryDelay is the pause after a failure. It doubles with each attempt that
	// comes to nothing, up to maxRetryDelay.
	retryDelay    = 100 * time.Millisecond
	maxRetryDelay = 2 * time.Second
)

// A Source is a store whose events are published.
type Source interface {
	Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error]
	Info(ctx context.Context) (kv.Info, error)
}

// Options configure a bridge.
type Options struct {
	// Dial makes a connection to publish on, which the bridge closes. It must
	// not reconnect by itself ([nats.NoReconnect]): events would go on it in
	// which those that the old connection lost are missing.
	Dial func(ctx context.Context) (*nats.Conn, error)
	// Subjects are those to publish on.
	Subjects bus.Subjects
	// After is the revision after which to start.
	After uint64
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

	encoder   bus.Encoder
	position  atomic.Uint64 // revision of the last event that was handed over, or is lost
	confirmed atomic.Uint64 // revision of the last event that the server has, or is lost
	newest    atomic.Uint64 // revision of the last event seen while there was no connection
	published atomic.Uint64
	lost      atomic.Uint64

	buffer  []kv.Event
	mark    atomic.Pointer[mark] // the last record of the log that was handed over
	pending chan struct{}        // something was published and is to be confirmed

	epoch    string        // of the store, where its life is that of the bridge
	advanced chan struct{} // confirmed was raised
	cancel   context.CancelFunc
	done     chan struct{}
}

// Stats counts what a bridge did.
type Stats struct {
	// Published counts events handed to the connection, repeated ones too.
	Published uint64
	// Lost counts events that could not be published before they were dropped.
	Lost uint64
	// Revision is that of the last event that the server has confirmed.
	Revision uint64
}

// Start publishes the events of source.
func Start(source Source, opts Options) *Bridge {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &Bridge{
		source:  source,
		opts:    opts,
		logger:  opts.Logger,
		buffer:  make([]kv.Event, eventBuffer),
		pending: make(chan struct{}, 1),

		advanced: make(chan struct{}, 1),

		cancel: cancel,
		done:   make(chan struct{}),
	}
	if b.opts.BurstHeartbeat == 0 {
		b.opts.BurstHeartbeat = burstHeartbeat
	}
	if b.opts.IdleHeartbeat == 0 {
		b.opts.IdleHeartbeat = idleHeartbeat
	}
	if _, shared := source.(Log); !shared {
		b.epoch = rand.Text()
	}
	b.confirmed.Store(opts.After)
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
	for delay := retryDelay; ; delay = min(2*delay, maxRetryDelay) {
		begun, before := time.Now(), b.confirmed.Load()
		err := b.session(ctx)
		if errors.Is(err, kv.ErrClosed) || ctx.Err() != nil {
			return
		}
		if b.confirmed.Load() != before || time.Since(begun) > maxRetryDelay {
			delay = retryDelay // it went well for a while
		}
		b.interrupted(err)
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

// session publishes on one connection until that breaks, or the source ends,
// which is [kv.ErrClosed].
func (b *Bridge) session(ctx context.Context) error {
	nc, err := b.dial(ctx)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	var confirmer sync.WaitGroup
	defer confirmer.Wait()
	// Closing the connection frees a publication that is stuck in it.
	closed := context.AfterFunc(ctx, nc.Close)
	defer func() {
		end(nil)
		if closed() {
			nc.Close()
		}
	}()

	b.position.Store(b.confirmed.Load())
	b.mark.Store(nil)
	confirmer.Go(func() { b.confirmAll(ctx, nc, end) })
	pulse := b.startPulse(nc)
	confirmer.Go(func() { pulse.run(ctx) })
	if log, ok := b.source.(Log); ok {
		err = b.publishElected(ctx, nc, log)
	} else {
		err = b.publishAll(ctx, nc)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, kv.ErrClosed) && b.confirmed.Load() != b.position.Load() {
		if err := b.confirm(ctx, nc); err != nil {
			return err
		}
	}
	return err
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

// publishAll publishes what comes after the last confirmed event, until the
// source or the connection fails.
func (b *Bridge) publishAll(ctx context.Context, nc *nats.Conn) error {
	for event, err := range b.source.Watch(ctx, kv.WatchOptions{Start: kv.After(b.confirmed.Load())}) {
		if lag, ok := errors.AsType[*kv.LagError](err); ok {
			b.lose(lag.First, lag.Last, tooSlow)
			continue
		}
		if errors.Is(err, kv.ErrCompacted) {
			return b.skip(ctx)
		}
		if err != nil {
			return err
		}
		if err := b.publish(nc, event); err != nil {
			return err
		}
		b.confirmLater()
	}
	return ctx.Err()
}

func (b *Bridge) publish(nc *nats.Conn, event kv.Event) error {
	switch err := nc.PublishMsg(b.encoder.Event(b.opts.Subjects, event)); {
	case errors.Is(err, nats.ErrMaxPayload):
		b.lost.Add(1)
		b.logLost(event.Revision, event.Revision, "the event is larger than what the bus carries")
	case err != nil:
		return err
	default:
		b.published.Add(1)
	}
	b.position.Store(event.Revision)
	return nil
}

// confirmLater lets the confirmer know that there is something to confirm.
func (b *Bridge) confirmLater() {
	select {
	case b.pending <- struct{}{}:
	default:
	}
}

// skip goes on from the oldest event that is still there; those before it are
// lost.
func (b *Bridge) skip(ctx context.Context) error {
	info, err := b.source.Info(ctx)
	if err != nil {
		return err
	}
	b.lose(b.confirmed.Load()+1, info.OldestRevision-1, tooSlow)
	return kv.ErrCompacted
}

// tooSlow is why events of a store in memory are lost.
const tooSlow = "the bus could not take them before the ring of recent events dropped them"

// lose accounts for events that the ring has dropped: there is no way back to
// them, nor to those before.
func (b *Bridge) lose(first, last uint64, reason string) {
	b.lost.Add(last - first + 1)
	b.position.Store(last)
	b.raise(last)
	b.logLost(first, last, reason)
}

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
	select {
	case b.advanced <- struct{}{}:
	default:
	}
}

// confirmAll asks the server, from time to time, whether it has what was
// published, and ends the session when it can't be known.
func (b *Bridge) confirmAll(ctx context.Context, nc *nats.Conn, end context.CancelCauseFunc) {
	broken := nc.StatusChanged(nats.CLOSED)
	if nc.IsClosed() { // before anybody could be told
		end(errBroken)
		return
	}
	var due <-chan time.Time
	for {
		select {
		case <-b.pending:
			if due == nil {
				due = time.After(confirmDelay)
			}
		case <-due:
			due = nil
			if err := b.confirm(ctx, nc); err != nil {
				end(err)
				return
			}
		case <-broken:
			end(errBroken)
			return
		case <-ctx.Done():
			return
		}
	}
}

// errBroken ends the session of a connection that broke.
var errBroken = errors.New("the connection broke")

// confirm makes a round trip to the server, which then has all that was
// published before.
func (b *Bridge) confirm(ctx context.Context, nc *nats.Conn) error {
	revision, mark := b.position.Load(), b.mark.Load()
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		return err
	}
	if mark != nil && !mark.acknowledged.Swap(true) {
		if err := mark.msg.Ack(); err != nil {
			return err
		}
	}
	b.raise(revision)
	return nil
}
