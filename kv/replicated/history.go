package replicated

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// History makes the events anew that the ring no longer holds: those of the
// records of the log after the one at sequence. It gives the events of one record
// after the other, from the record at sequence+1 on, also of those that have
// none, and waits for records that are yet to come. They are what this worker
// and all others had when they applied the record, in all their fields. The
// events of a record can be iterated until the next one is asked for.
//
// What comes is made by a second state, which begins with a snapshot that has
// nothing after the record at sequence, or with the log. It takes as much memory
// as that of the store, and the events of one record, until the iteration ends.
// As long as the events after sequence are not acknowledged on [Options.Cursor],
// the snapshot and the log that this takes are kept.
//
// An error is the last that comes: [kv.ErrCompacted] if no snapshot and no log
// lead to the record after sequence, or a later record can't be read,
// [kv.ErrClosed] once the store is closed, the context's error, and others, such
// as where the log was removed meanwhile, after which another call may succeed.
func (s *Store) History(ctx context.Context, sequence uint64) iter.Seq2[iter.Seq[kv.Event], error] {
	return func(yield func(iter.Seq[kv.Event], error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(s.background, func() { cancel(kv.ErrClosed) })()
		err := s.history(ctx, sequence, func(events iter.Seq[kv.Event]) bool { return yield(events, nil) })
		switch cause := context.Cause(ctx); {
		case err == nil:
		case cause != nil:
			yield(nil, cause)
		default:
			yield(nil, err)
		}
	}
}

// history is History, which ends without an error when yield returns false.
func (s *Store) history(ctx context.Context, after uint64, yield func(iter.Seq[kv.Event]) bool) error {
	p, err := s.past(ctx, after)
	if err != nil {
		return err
	}
	var records []logRecord
	keep := func(record logRecord) error {
		records = append(records, record)
		return nil
	}
	for {
		clear(records)
		records = records[:0]
		err := patiently(ctx, s.logger, "read the log", func() error {
			if s.shared.Closed() {
				return kv.ErrClosed
			}
			err := s.readLog(ctx, p.sequence+1, keep)
			if errors.Is(err, errNoRecord) || errors.Is(err, errMissing) {
				err = s.missing(ctx, p.sequence+1)
			}
			return err
		})
		if errors.Is(err, errDamaged) {
			err = fmt.Errorf("%w: %w", kv.ErrCompacted, err)
		}
		if err != nil {
			return err
		}
		for _, record := range records {
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.shared.Closed() {
				return kv.ErrClosed
			}
			before := p.machine.Revision()
			if err := p.apply(record); err != nil {
				return err
			}
			if record.sequence > after && !yield(p.events(before)) {
				return nil
			}
			p.machine.Forget(p.machine.Revision())
		}
	}
}

// A past is the state after a record of the log that may be long ago. Its machine
// holds the events of the last record that was applied.
type past struct {
	machine  *machine.Machine
	sessions sessions
	sequence uint64
}

// past returns the newest state that is not after the record at sequence and that
// leads on.
func (s *Store) past(ctx context.Context, sequence uint64) (*past, error) {
	opts := s.machineOptions()
	opts.ReplayEvents, opts.ReplayBytes = math.MaxInt, math.MaxInt64
	var p *past
	err := patiently(ctx, s.logger, "load a snapshot of the past", func() error {
		if s.shared.Closed() {
			return kv.ErrClosed
		}
		header, m, err := s.restore(ctx, sequence, opts)
		if errors.Is(err, errRemoved) && !transient(err) {
			return fmt.Errorf("%w: the events after record %d: %w", kv.ErrCompacted, sequence, err)
		}
		p = &past{m, header.sessions(), header.Sequence}
		return err
	})
	return p, err
}

// apply carries out the next record.
func (p *past) apply(record logRecord) error {
	b, err := decodeBatch(record.data)
	if err != nil {
		return fmt.Errorf("log record %d: %w", record.sequence, err)
	}
	step(p.machine, p.sessions, &b, record.at.UnixNano(), nil)
	p.sequence = record.sequence
	return nil
}

// events returns the events that the machine holds, which are those after a
// revision.
func (p *past) events(after uint64) iter.Seq[kv.Event] {
	return func(yield func(kv.Event) bool) {
		buf := make([]kv.Event, min(256, p.machine.Revision()-after))
		for revision := after; revision < p.machine.Revision(); {
			n, err := p.machine.Events(revision, buf)
			if err != nil {
				return // another record was asked for
			}
			for _, event := range buf[:n] {
				if !yield(event) {
					return
				}
			}
			revision += uint64(n)
		}
	}
}
