package replicated

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// fetchRecords and fetchBytes bound what is asked of the log at once.
	fetchRecords = 4096
	fetchBytes   = 4 << 20
	// fetchTimeout bounds one such request.
	fetchTimeout = 2 * time.Second
	// fetchGrace is how long a record that is known to be in the log may be on
	// its way before it is asked for.
	fetchGrace = 50 * time.Millisecond
	// idleCheck is how often a worker that gets no records asks whether there is
	// one.
	idleCheck = 2 * time.Second

	// timeHeader has the time of a record, RFC 3339 with nanoseconds.
	timeHeader = "Nats-Time-Stamp"
)

var (
	// errNoRecord says that the server that was asked has no later record.
	errNoRecord = errors.New("there is no later record")
	// errRemoved says that the log begins after the next record.
	errRemoved = errors.New("the log was removed before this worker had it")
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
	newest int64 // time of the newest record taken, in Unix nanoseconds

	expected atomic.Uint64 // highest sequence that is known to be in the log
	soon     chan struct{} // expected has risen
	now      chan struct{} // records may be lost
}

// A logRecord is a message of the log.
type logRecord struct {
	sequence uint64
	at       time.Time
	data     []byte
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
	if f.live, err = f.store.nc.Subscribe(liveSubject(f.store.opts.Prefix), f.received); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
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
	err = f.fetchUpTo(ctx, record.sequence-1)
	if err == nil {
		err = f.take(record)
	}
	f.mu.Unlock()
	f.ended(ctx, err)
}

// fetchUpTo fetches records until the store has the one at target. It waits for
// as long as there is no JetStream. The lock is held.
func (f *feed) fetchUpTo(ctx context.Context, target uint64) error {
	for f.store.applied.Load() < target {
		err := patiently(ctx, f.store.logger, "read the log", func() error { return f.fetch(ctx) })
		if errors.Is(err, errRemoved) {
			f.store.logger.Warn("records of the log are gone, loading a snapshot", "applied", f.store.applied.Load())
			err = patiently(ctx, f.store.logger, "load the snapshots", func() error { return f.store.load(ctx) })
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
		case errors.Is(err, errRemoved):
			return f.fetchUpTo(ctx, f.store.applied.Load()+1)
		case errors.Is(err, errNoRecord), transient(err):
			return nil // it comes, or is asked for, later
		default:
			return err
		}
	}
}

// fetch fetches the next records, at least one. It fails with [errNoRecord] and
// [errRemoved]. The lock is held.
func (f *feed) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	s := f.store
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone already
	before := s.applied.Load()
	query, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{before + 1, fetchRecords, fetchBytes})
	if err != nil {
		return err
	}
	if err := s.nc.PublishRequest("$JS.API.DIRECT.GET."+streamName(s.opts.Prefix), inbox, query); err != nil {
		return err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil && s.applied.Load() > before {
			return nil // the rest is asked for again
		}
		if err != nil {
			return err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204": // the end of what was asked for
			if s.applied.Load() == before {
				return errNoRecord
			}
			return nil
		case "404":
			return f.missing(ctx)
		default:
			return fmt.Errorf("read the log: JetStream answers %s %s", status, m.Header.Get("Description"))
		}
		record, err := parseRecord(m)
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		applied := s.applied.Load()
		if record.sequence > applied+1 {
			if applied == before {
				return errRemoved
			}
			return nil // one of the answer was lost
		}
		if err := f.take(record); err != nil {
			return err
		}
	}
}

// missing tells why there is no next record.
func (f *feed) missing(ctx context.Context) error {
	if f.expected.Load() <= f.store.applied.Load() {
		return errNoRecord
	}
	log, err := f.store.logState(ctx)
	if err != nil {
		return err
	}
	if log.FirstSeq > f.store.applied.Load()+1 {
		return errRemoved
	}
	return errNoRecord
}

// take applies a record, unless that was done before. The lock is held.
func (f *feed) take(record logRecord) error {
	s := f.store
	if s.shared.Closed() {
		return nil
	}
	at := record.at.UnixNano()
	if record.sequence <= s.applied.Load() {
		if at > f.newest {
			return fmt.Errorf("the log has lost records: it has a new record %d after this worker had %d", record.sequence, s.applied.Load())
		}
		return nil
	}
	b, err := decodeBatch(record.data)
	if err != nil {
		return fmt.Errorf("log record %d: %w", record.sequence, err)
	}
	f.newest = max(f.newest, at)
	s.apply(record.sequence, at, &b, len(record.data))
	return nil
}

// parseRecord returns the record that a message is by its headers, which are the
// same whether it was sent out or asked for.
func parseRecord(m *nats.Msg) (logRecord, error) {
	sequence, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil || sequence == 0 {
		return logRecord{}, fmt.Errorf("a record has the sequence %q", m.Header.Get(jetstream.SequenceHeader))
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(timeHeader))
	if err != nil {
		return logRecord{}, fmt.Errorf("record %d has the time %q", sequence, m.Header.Get(timeHeader))
	}
	return logRecord{sequence, at, m.Data}, nil
}
