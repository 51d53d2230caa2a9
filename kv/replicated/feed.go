package replicated

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

const (
	// fetchGrace is how long a record that is known to be in the log may be on
	// its way before it is asked for.
	fetchGrace = 50 * time.Millisecond
	// idleCheck is how often a worker that gets no records asks whether there is
	// one.
	idleCheck = 2 * time.Second
)

// A feed brings the records of the log to the store, each once and in order.
//
// The server that leads the log sends every record out when it is stored. That
// takes no consumer, which would live on one server and be gone with it. What
// is lost on the way shows as a gap in the sequences, or by what is known from
// elsewhere, and is asked of any server that has the log.
type feed struct {
	store *Store
	live  *nats.Subscription

	// mu is held while records are taken, and while they are fetched.
	mu     sync.Mutex
	newest int64     // time of the newest record taken, in Unix nanoseconds
	last   logRecord // the last one taken, without its data
	sure   bool      // the log still goes on after what this worker has

	renewals chan nats.Status // has a mark for each time that the connection was made anew

	expected atomic.Uint64 // highest sequence that is known to be in the log
	soon     chan struct{} // expected has risen
	now      chan struct{} // records may be lost
}

func (f *feed) init(s *Store) {
	f.store = s
	f.soon = make(chan struct{}, 1)
	f.now = make(chan struct{}, 1)
}

// start returns when the store has the records up to target. Later ones come by
// themselves, until the store's background ends.
func (f *feed) start(ctx context.Context, target uint64) error {
	var err error
	f.renewals = f.store.nc.StatusChanged(nats.CONNECTED)
	if f.live, err = f.store.nc.Subscribe(liveSubject(f.store.opts.Prefix, "*"), f.received); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expected.Store(target)
	if err := f.fetchUpTo(ctx, target); err != nil {
		return err
	}
	f.store.routines.Go(func() { f.run(f.store.background) })
	return nil
}

// stop returns when no more records are taken. The background has ended.
func (f *feed) stop() {
	if f.live != nil {
		_ = f.live.Unsubscribe() // fails only if the connection is gone already
	}
	if f.renewals != nil {
		f.store.nc.RemoveStatusListener(f.renewals)
	}
	f.mu.Lock() // whoever has it now sees the end of the background
	defer f.mu.Unlock()
}

// expect tells that the log has a record with that sequence.
func (f *feed) expect(sequence uint64) {
	if sequence <= f.store.applied.Load() {
		return
	}
	for {
		known := f.expected.Load()
		if sequence <= known {
			return
		}
		if f.expected.CompareAndSwap(known, sequence) {
			signal(f.soon)
			return
		}
	}
}

// check tells that records may be lost.
func (f *feed) check() { signal(f.now) }

// signal leaves a mark in c, which holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run fetches what did not come by itself.
func (f *feed) run(ctx context.Context) {
	idle := time.NewTicker(idleCheck)
	defer idle.Stop()
	before := f.store.applied.Load()
	for {
		select {
		case <-f.soon:
			select {
			case <-time.After(fetchGrace):
			case <-ctx.Done():
			}
			if f.store.applied.Load() >= f.expected.Load() {
				continue
			}
		case <-f.now:
		case <-idle.C:
			applied := f.store.applied.Load()
			came := applied != before
			before = applied
			if came {
				continue
			}
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		err := f.fetchUpTo(ctx, f.expected.Load())
		if err == nil {
			err = f.fetchRest(ctx)
		}
		f.mu.Unlock()
		f.ended(ctx, err)
	}
}

// ended stops the store for an error after which it can't go on.
func (f *feed) ended(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		f.store.fail(err)
	}
}

// received takes a record that the leader of the log has sent out.
func (f *feed) received(m *nats.Msg) {
	ctx := f.store.background
	record, err := parseRecord(m)
	if err != nil || m.Header.Get(jetstream.StreamHeader) != streamName(f.store.opts.Prefix) {
		f.store.logger.Warn("a message that is no record of the log was published among them", "subject", m.Subject, "error", err)
		return
	}
	f.mu.Lock()
	upTo := record.sequence - 1
	if f.renewed() || !f.sure {
		upTo++ // the next record may be one of a log that was made anew, which only the log can tell
	}
	err = ctx.Err() // it may have been stopped meanwhile
	if err == nil {
		err = f.fetchUpTo(ctx, upTo)
	}
	if err == nil {
		err = f.take(record)
	}
	f.mu.Unlock()
	f.ended(ctx, err)
}

// fetchUpTo fetches records until the store has the one at target. It waits for
// as long as there is no JetStream. It fails with [errDamaged] where a record can't
// be read and no snapshot has it. The lock is held.
func (f *feed) fetchUpTo(ctx context.Context, target uint64) error {
	for f.store.applied.Load() < target {
		next := f.store.applied.Load() + 1
		err := patiently(ctx, f.store.logger, "read the log", func() error { return f.fetch(ctx) })
		if gone := err; errors.Is(gone, errRemoved) || errors.Is(gone, errDamaged) {
			f.store.logger.Warn("records of the log are gone, loading a snapshot", "applied", next-1, "reason", gone)
			load := f.store.load
			if errors.Is(gone, errDamaged) {
				load = f.store.loadNewest // or it would be the same way again
			}
			f.sure = false
			err = patiently(ctx, f.store.logger, "load the snapshots", func() error { return load(ctx) })
			if err == nil && f.store.applied.Load() < next {
				err = fmt.Errorf("%w, and no snapshot goes further than to record %d", gone, f.store.applied.Load())
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchRest fetches the records that there are, if JetStream can tell. The lock
// is held.
func (f *feed) fetchRest(ctx context.Context) error {
	for {
		err := f.fetch(ctx)
		switch {
		case err == nil:
		case errors.Is(err, errRemoved), errors.Is(err, errDamaged):
			return f.fetchUpTo(ctx, f.store.applied.Load()+1)
		case errors.Is(err, errNoRecord), transient(err):
			return nil // it comes, or is asked for, later
		default:
			return err
		}
	}
}

// renewed reports whether the connection was made anew since that was asked last.
func (f *feed) renewed() bool {
	select {
	case <-f.renewals:
		return true
	default:
		return false
	}
}

// fetch fetches the next records, at least one. It asks for the last one that was
// taken as well: a log that has lost its end and grew again has another one there. It
// fails with [errNoRecord], [errRemoved] and [errDamaged]. The lock is held.
func (f *feed) fetch(ctx context.Context) error {
	f.renewed() // whatever was missed until now is seen here
	f.sure = false
	applied := f.store.applied.Load()
	if applied > 0 {
		err := f.store.readLog(ctx, applied, f.take)
		if errors.Is(err, errNoRecord) {
			err = f.store.missing(ctx, applied)
		}
		gone := errors.Is(err, errMissing) || errors.Is(err, errRemoved) || errors.Is(err, errDamaged)
		if err != nil && !gone {
			return err
		}
	}
	f.sure = true
	if f.store.applied.Load() > applied {
		return nil
	}
	// The last one is gone, or came alone: it is at the end of the log, or large.
	err := f.store.readLog(ctx, applied+1, f.take)
	if errors.Is(err, errMissing) || errors.Is(err, errNoRecord) && f.expected.Load() > applied {
		return f.store.missing(ctx, applied+1)
	}
	return err
}

// take applies a record, unless that was done before. It fails where it sees that the
// log has lost what was. The lock is held.
func (f *feed) take(record logRecord) error {
	s := f.store
	if s.shared.Closed() {
		return kv.ErrClosed
	}
	at := record.at.UnixNano()
	if record.sequence <= s.applied.Load() {
		if at > f.newest || record.sequence == f.last.sequence && !record.at.Equal(f.last.at) {
			return fmt.Errorf("the log has lost records: it has a new record %d after this worker had %d", record.sequence, s.applied.Load())
		}
		return nil
	}
	b, err := decodeBatch(record.data)
	if err != nil {
		return fmt.Errorf("log record %d: %w", record.sequence, err)
	}
	f.newest = max(f.newest, at)
	f.last = logRecord{sequence: record.sequence, at: record.at}
	s.apply(record.sequence, at, &b, len(record.data))
	if record.marked {
		s.marks.came(record.sequence)
	}
	return nil
}
