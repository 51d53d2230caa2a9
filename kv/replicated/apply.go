package replicated

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// consume starts to read the log after the last record applied.
func (s *Store) consume(ctx context.Context) error {
	consumer, err := s.js.OrderedConsumer(ctx, streamName(s.opts.Prefix), jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   s.applied.Load() + 1,
	})
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	s.consumer, err = consumer.Consume(s.receive, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		s.logger.Warn("reading the log was interrupted", "error", err, "applied", s.applied.Load())
	}))
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	return nil
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
		s.fail(fmt.Errorf("the log goes on with %d after %d: what is between was removed before this worker had it", sequence, applied))
		return
	}
	b, err := decodeBatch(msg.Data())
	if err != nil {
		s.fail(fmt.Errorf("log record %d: %w", sequence, err))
		return
	}
	s.apply(sequence, meta.Timestamp, &b)
}

// An outcome is what a command of this worker's batch came to.
type outcome struct {
	result kv.Result
	err    error
}

// apply carries out a batch, and answers it if it is this worker's.
func (s *Store) apply(sequence uint64, at time.Time, b *batch) {
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
	if sequence == s.target {
		close(s.caughtUp)
	}
}
