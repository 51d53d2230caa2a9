package replicated

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"kvbus/kv"
	"kvbus/kv/machine"
)

var _ kv.Store = (*Store)(nil)

// A Store is a [kv.Store] on a log.
type Store struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	opts   Options
	logger *slog.Logger
	id     string // of this worker in the log

	log        string // its name
	neighbours *nats.Subscription
	replicas   atomic.Int64 // of the log, when this worker looked last
	patience   atomic.Int64 // how long the log was waited for at last, in nanoseconds

	snapshots    *snapshotStore
	snapshotting sync.Mutex    // held by who takes a snapshot
	ends         uint64        // how many marks were appended to a full log; under snapshotting
	full         chan struct{} // the log takes no more records

	shared    *machine.Shared
	sessions  sessions      // under the lock of shared
	begun     int64         // earliest time of this worker's batches, in Unix nanoseconds; likewise
	due       snapshotDue   // likewise
	applied   atomic.Uint64 // sequence of the last record applied
	positions positions
	marks     marks
	appended  pipeline
	feed      feed
	deadline  deadlineTimer

	acks   *nats.Subscription
	status chan nats.Status

	background context.Context // of the routines
	cancel     context.CancelFunc
	routines   sync.WaitGroup
	closing    sync.Once
	closed     chan struct{} // nothing is applied any more
	ended      sync.Once
	failOnce   sync.Once
	failed     chan error
}

// Open opens the store on the JetStream of nc, and creates its log if there is
// none. It returns when the store has all that the log has. The connection
// stays the caller's, who closes it after [Store.Close], and leaves its error handler
// alone until Open returns. It fails with [nats.ErrPermissionViolation] where the
// server refuses the user what a store needs.
func Open(ctx context.Context, nc *nats.Conn, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return nil, err
	}
	s := &Store{
		nc:       nc,
		js:       js,
		opts:     opts,
		logger:   opts.Logger,
		id:       nuid.Next(),
		sessions: sessions{},
		full:     make(chan struct{}, 1),
		closed:   make(chan struct{}),
		failed:   make(chan error, 1),
	}
	s.background, s.cancel = context.WithCancel(context.Background())
	s.appended.init(s)
	s.routines.Go(func() { s.appended.run(s.background) })
	s.feed.init(s)
	s.deadline.init(s)
	opening, release := s.withRights(ctx)
	defer release()
	err = s.start(opening)
	if cause := context.Cause(opening); cause != nil && ctx.Err() == nil {
		err = cause
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) start(ctx context.Context) error {
	if err := s.awaitLog(ctx); err != nil {
		return err
	}
	if err := s.answerNeighbours(); err != nil {
		return err
	}
	err := patiently(ctx, s.logger, "load the snapshots "+streamName(s.opts.Prefix), func() (err error) {
		if s.snapshots, err = s.openSnapshots(ctx); err == nil {
			err = s.load(ctx)
		}
		return s.asked(unheardOf(err))
	})
	if err != nil {
		return err
	}
	var log jetstream.StreamState
	err = patiently(ctx, s.logger, "look how far the log goes", func() (err error) {
		log, err = s.logState(ctx)
		return unheardOf(err)
	})
	if err != nil {
		return err
	}
	if s.acks, err = s.nc.Subscribe(s.appended.inbox+".*", s.appended.acknowledged); err != nil {
		return err
	}
	s.status = s.nc.StatusChanged(nats.CONNECTED)
	s.routines.Go(func() {
		for range s.status {
			s.feed.check()
			s.appended.reconnected()
		}
	})
	if err := s.feed.start(ctx, log.LastSeq); err != nil {
		return err
	}
	// A mark, by which a publisher of events that are left from before is elected. It
	// is waited for, as the server refuses it where the user may not append.
	marked := make(chan struct{})
	s.appended.read(func(error) { close(marked) })
	s.routines.Go(func() { s.keepSnapshots(s.background) }) // which makes room in a full log
	s.routines.Go(func() { s.watchLog(s.background) })
	if err := s.adoptLimits(ctx); err != nil {
		return err
	}
	select {
	case <-marked: // or given up: a log that takes nothing can be read
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitLog opens the log, and makes it if there is none. Another log that is heard of
// may be this one, of which the server has not heard yet: it fails with [errTwoLogs] a
// while later.
func (s *Store) awaitLog(ctx context.Context) error {
	var since time.Time // another log is heard of
	return patiently(ctx, s.logger, "open the log "+streamName(s.opts.Prefix), func() error {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		err := s.openLog(ctx)
		switch {
		case !errors.Is(err, errTwoLogs):
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
			fallthrough
		case time.Since(since) < 2*apiTimeout:
			err = fmt.Errorf("%w: %w", errNotYet, err)
		}
		return s.asked(err)
	})
}

func (s *Store) machineOptions() machine.Options {
	return machine.Options{
		Limits:       kv.DefaultLimits(), // the same for all workers, until a command changes them
		ReplayEvents: s.opts.ReplayEvents,
		ReplayBytes:  s.opts.ReplayBytes,
	}
}

// Failed gives the error after which the store serves nothing any more, such as
// a damaged log.
func (s *Store) Failed() <-chan error { return s.failed }

// Silence returns for how long JetStream has neither taken nor refused any
// record, up to the last attempt; 0 while it does, and while nobody asks. It is
// so without a quorum, and when the server can't write to its disk.
func (s *Store) Silence() time.Duration { return s.appended.silence() }

// fail stops the store for good.
func (s *Store) fail(err error) {
	s.failOnce.Do(func() {
		s.logger.Error("the store stops", "error", err)
		s.failed <- err
		s.cancel()
		s.end()
	})
}

// end lets nothing more happen.
func (s *Store) end() {
	s.ended.Do(func() {
		s.appended.close(kv.ErrClosed)
		if s.shared != nil {
			s.shared.Close()
		}
		close(s.closed)
	})
}

// Do implements [kv.Store].
func (s *Store) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	type answer struct {
		result kv.Result
		err    error
	}
	answered := make(chan answer, 1)
	s.Submit(ctx, cmd, func(result kv.Result, err error) { answered <- answer{result, err} })
	select {
	case a := <-answered:
		return a.result, a.err
	case <-ctx.Done():
		return kv.Result{}, ctx.Err()
	}
}

// Submit carries out a command and calls done, once, from a goroutine of the
// store or before it returns. Done must not wait.
func (s *Store) Submit(ctx context.Context, cmd kv.Command, done func(kv.Result, error)) {
	err := ctx.Err()
	if err == nil {
		err = cmd.Validate()
	}
	if err != nil {
		done(kv.Result{}, err)
		return
	}
	s.appended.submit(cmd, done)
}

// Fresh calls done, once, when a read with opts may be answered from what this
// worker has, or with the error that it fails with. It is called from a
// goroutine of the store or before Fresh returns, and must not wait.
func (s *Store) Fresh(ctx context.Context, opts kv.ReadOptions, done func(error)) {
	if fresh, err := s.fresh(ctx, opts); fresh || err != nil {
		done(err)
		return
	}
	s.refresh(opts.MinRevision, done)
}

// await is Fresh for who waits.
func (s *Store) await(ctx context.Context, opts kv.ReadOptions) error {
	if fresh, err := s.fresh(ctx, opts); fresh || err != nil {
		return err
	}
	refreshed := make(chan error, 1)
	s.refresh(opts.MinRevision, func(err error) { refreshed <- err })
	select {
	case err := <-refreshed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fresh reports whether a read with opts may be answered at once. It fails where
// it can't be answered at all.
func (s *Store) fresh(ctx context.Context, opts kv.ReadOptions) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if s.shared.Closed() {
		return false, kv.ErrClosed
	}
	consistency := opts.Consistency
	if consistency == kv.DefaultConsistency {
		consistency = s.opts.Consistency
	}
	return consistency == kv.Eventual && opts.MinRevision <= s.shared.Revision(), nil
}

// refresh calls done when this worker has all that was answered to anybody
// before, and fails if revision is not among it.
func (s *Store) refresh(revision uint64, done func(error)) {
	s.appended.read(func(err error) {
		if has := s.shared.Revision(); err == nil && has < revision {
			err = fmt.Errorf("%w: the store is at revision %d, before %d", kv.ErrUnavailable, has, revision)
		}
		done(err)
	})
}

// Get implements [kv.Store].
func (s *Store) Get(ctx context.Context, key string, opts kv.ReadOptions) (entry kv.Entry, err error) {
	if err = s.await(ctx, opts); err == nil {
		err = s.shared.Get(key, time.Now, &entry)
	}
	return entry, err
}

// Scan implements [kv.Store].
func (s *Store) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	if err := s.await(ctx, q.ReadOptions); err != nil {
		return kv.Page{}, err
	}
	return s.shared.Scan(q, time.Now)
}

// Replay implements [kv.Store].
func (s *Store) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	if err := s.await(ctx, q.ReadOptions); err != nil {
		return kv.Replay{}, err
	}
	return s.shared.Replay(q)
}

// Watch implements [kv.Store].
func (s *Store) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return s.shared.Watch(ctx, opts)
}

// Info implements [kv.Store].
func (s *Store) Info(ctx context.Context) (kv.Info, error) {
	if err := s.await(ctx, kv.ReadOptions{}); err != nil {
		return kv.Info{}, err
	}
	return s.Describe()
}

// Describe is [Store.Info] as this worker knows it, without a word with the log. It
// fails with [kv.ErrClosed].
func (s *Store) Describe() (kv.Info, error) {
	var info kv.Info
	_, err := s.shared.Update(func(m *machine.Machine) {
		info = m.Info()
		info.LogPosition = s.applied.Load()
	})
	info.Store, info.Durable, info.Clustered = "replicated", true, true
	info.Replicas, info.SyncAlways = s.Replicas(), s.opts.SyncAlways
	return info, err
}

// Close implements [kv.Store]. What was not answered fails.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.cancel()
		s.deadline.stop()
		if s.status != nil {
			s.nc.RemoveStatusListener(s.status) // closes it
		}
		for _, sub := range []*nats.Subscription{s.acks, s.neighbours} {
			if sub != nil {
				_ = sub.Unsubscribe() // fails only if the connection is gone already
			}
		}
		s.feed.stop()
		s.end()
		s.routines.Wait()
	})
	return nil
}
