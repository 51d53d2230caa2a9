package replicated

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
	"kvbus/kv/machine"
)

const (
	// pullTime is how long one request for records lasts. JetStream is heard of
	// every heartbeat; after two of silence the log is read by a new consumer.
	pullTime  = 5 * time.Second
	heartbeat = time.Second
)

// consume starts to read the log after the last record applied.
func (s *Store) consume(ctx context.Context) error {
	consumer, err := s.js.OrderedConsumer(ctx, streamName(s.opts.Prefix), jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   s.applied.Load() + 1,
	})
	if err != nil {
		return err
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.background.Err() != nil {
		return kv.ErrClosed
	}
	s.consumer, err = consumer.Consume(s.receive, jetstream.PullExpiry(pullTime), jetstream.PullHeartbeat(heartbeat), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		s.logger.Warn("reading the log was interrupted", "error", err, "applied", s.applied.Load())
	}))
	return err
}

// stopReading returns when no more records come.
func (s *Store) stopReading() {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.consumer != nil {
		s.consumer.Stop()
		<-s.consumer.Closed()
		s.consumer = nil
	}
}

// reload goes on from a snapshot, as the log no longer has what comes next: this
// worker was away for so long that the others removed it.
func (s *Store) reload() {
	s.stopReading()
	err := patiently(s.background, s.logger, "load the snapshots", func() error { return s.load(s.background) })
	if err == nil {
		err = patiently(s.background, s.logger, "read the log", func() error { return s.consume(s.background) })
	}
	if err != nil && s.background.Err() == nil {
		s.fail(fmt.Errorf("the log was removed before this worker had it: %w", err))
	}
}

// receive takes one record of the log, in order.
func (s *Store) receive(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		s.fail(fmt.Errorf("log message without metadata: %w", err))
		return
	}
	sequence, applied := meta.Sequence.Stream, s.applied.Load()
	if sequence <= applied || s.shared.Closed() {
		return
	}
	if sequence != applied+1 {
		if s.reloading.CompareAndSwap(false, true) {
			s.logger.Warn("records of the log are gone, loading a snapshot", "applied", applied, "next", sequence)
			s.routines.Go(func() {
				defer s.reloading.Store(false)
				s.reload()
			})
		}
		return
	}
	b, err := decodeBatch(msg.Data())
	if err != nil {
		s.fail(fmt.Errorf("log record %d: %w", sequence, err))
		return
	}
	s.apply(sequence, meta.Timestamp, &b, len(msg.Data()))
}

// An outcome is what a command of this worker's batch came to.
type outcome struct {
	result kv.Result
	err    error
}

// apply carries out a batch of that size in the log, in bytes, and answers it if
// it is this worker's.
func (s *Store) apply(sequence uint64, at time.Time, b *batch, size int) {
	now := at.UnixNano()
	own := b.Worker == s.id
	var (
		outcomes []outcome
		verdict  verdict
		due      int64
		revision uint64
	)
	wake, err := s.shared.Update(func(m *machine.Machine) {
		m.Expire(now)
		if verdict = s.sessions.judge(b, now); verdict == accepted {
			for i := range b.Commands {
				result, err := m.Apply(now, &b.Commands[i])
				if own {
					outcomes = append(outcomes, outcome{result, err})
				}
			}
		}
		s.applied.Store(sequence)
		s.due.bytes += int64(size)
		due, revision = m.DeadlineBound(), m.Revision()
	})
	if err != nil {
		return // closed
	}
	s.positions.add(revision)
	if own {
		switch verdict {
		case accepted:
			s.appended.complete(b.Number, outcomes)
		case outOfOrder:
			s.appended.resend()
		}
	}
	wake.Up()
	s.deadline.set(due)
	if sequence >= s.target {
		s.reached.Do(func() { close(s.caughtUp) })
	}
}
