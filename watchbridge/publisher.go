package watchbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

const (
	// pinHeader has, on each record that JetStream gives, the id of its election.
	pinHeader = "Nats-Pin-Id"
	// holdTime bounds how long a publisher that works on one record asks not to be
	// replaced.
	holdTime = 5 * time.Minute
)

// errOvertaken ends the session of a publisher that another one has replaced.
var errOvertaken = errors.New("another worker has published the next events")

// A publisher publishes the events of the records that were given to this worker
// in one session.
type publisher struct {
	session *session
	log     Log
	buffer  []kv.Event

	pin      string // the id of its election; empty while it is not elected
	last     uint64 // sequence of the last mark that it was given
	sequence uint64 // of the last record whose events were all handed over, by any worker
	history  *history

	seen   time.Time // when all events were marked, or a mark was asked for
	missed time.Time // since when a mark did not come; zero while none is missing
	closed time.Time // when the store was seen to be closed; zero before
}

// elected reports whether this worker publishes.
func (p *publisher) elected() bool { return p.pin != "" }

// given takes a mark, which tells this worker that it is elected.
func (p *publisher) given(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	sequence, pin := meta.Sequence.Stream, msg.Headers().Get(pinHeader)
	if pin != p.pin {
		if err := p.resume(ctx); err != nil {
			return err
		}
		p.pin, p.last = pin, 0
	}
	if sequence <= p.last {
		return nil // given again, before it was known to be acknowledged
	}
	if sequence > p.sequence {
		if err := p.applied(ctx, sequence); err != nil {
			return err
		}
		if err := p.publishRecord(ctx, sequence); err != nil {
			return err
		}
	}
	p.last, p.missed = sequence, time.Time{}
	p.session.handOver(&mark{msg: msg})
	return nil
}

// applied waits until the store has applied a record. A worker that has lost its
// way to the log must not stay elected.
func (p *publisher) applied(ctx context.Context, sequence uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, recordPatience, fmt.Errorf("record %d does not come from the log", sequence))
	defer cancel()
	if _, err := p.log.RevisionAfter(ctx, sequence); err != nil && !errors.Is(err, kv.ErrCompacted) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	return nil
}

// check looks for what does not come: the end of the store, a mark that another
// worker was given, one after the last events. It fails with [kv.ErrClosed] when
// there is nothing more to do.
func (p *publisher) check(ctx context.Context) error {
	now := time.Now()
	select {
	case <-p.log.Closed():
		if p.closed.IsZero() {
			p.closed = now
		}
		done := p.sequence >= p.log.Applied() && (p.last >= p.log.Marked() || now.Sub(p.closed) > closedPatience)
		if !p.elected() || done {
			return kv.ErrClosed
		}
		return nil
	default:
	}
	marked := p.log.Marked()
	switch {
	case !p.elected() || marked <= p.last:
		p.missed = time.Time{}
	case p.missed.IsZero():
		p.missed = now
	case now.Sub(p.missed) > markLoss:
		p.session.logger.Info("another worker publishes events")
		p.leaveHistory()
		p.pin = ""
		p.session.mark.Store(nil)
	}
	unmarked, err := p.unmarked(ctx, marked)
	if err != nil || !unmarked {
		p.seen = now
		return err
	}
	patience := markPatience + rand.N(markPatience)
	if p.elected() {
		patience = 0
	}
	if now.Sub(p.seen) >= patience {
		p.log.Mark()
		p.seen = now
	}
	return nil
}

// unmarked reports whether there are events after those of the mark at sequence.
func (p *publisher) unmarked(ctx context.Context, sequence uint64) (bool, error) {
	newest, err := p.log.RevisionAfter(ctx, p.log.Applied())
	if err != nil {
		return false, err
	}
	revision, err := p.log.RevisionAfter(ctx, sequence)
	if errors.Is(err, kv.ErrCompacted) {
		return true, nil // before this worker began
	}
	return newest > revision, err
}

// A history gives the events that the store no longer holds.
type history struct {
	next func() (iter.Seq[kv.Event], error, bool)
	stop func()
}

// resume finds where to go on when this worker was elected: after the last
// record that was acknowledged. Those between it and the first that this worker
// is given were given to the publisher before, and would come again much later.
//
// Where somebody has removed that from the log, it publishes first what the store
// holds of what may not be published.
func (p *publisher) resume(ctx context.Context) error {
	p.leaveHistory()
	published, known, err := p.log.Published(ctx, Cursor)
	if err != nil {
		return err
	}
	p.sequence = published
	s := p.session
	upTo, err := p.log.RevisionAfter(ctx, p.sequence)
	if errors.Is(err, kv.ErrCompacted) { // too long ago for this worker to know
		upTo = s.confirmed.Load()
	} else if err != nil {
		return err
	}
	before := upTo
	if !known {
		before = min(before, p.heard())
		s.logger.Warn("somebody has removed from the log what tells how far the events are published", "up_to_record", p.sequence, "up_to_revision", upTo)
	}
	s.logger.Info("publishing events", "after_record", p.sequence, "after_revision", before)
	s.position.Store(before)
	s.raise(before) // the server has what was acknowledged
	return p.publishRest(ctx, upTo, "somebody has removed them from the log")
}

// heard returns the revision up to which the events are published as far as this
// worker knows by itself, and by heartbeats. One that knows nothing takes those
// before what it holds for published.
func (p *publisher) heard() uint64 {
	if revision := max(p.session.confirmed.Load(), p.session.heard.Load()); revision > 0 {
		return revision
	}
	return p.log.OldestRevision() - 1
}

// publishRecord publishes all events up to those of the record at sequence.
func (p *publisher) publishRecord(ctx context.Context, sequence uint64) error {
	if p.history == nil {
		revision, err := p.log.RevisionAfter(ctx, sequence)
		if err == nil {
			err = p.publishHeld(ctx, revision)
		}
		if err == nil {
			p.sequence = sequence
		}
		if !errors.Is(err, kv.ErrCompacted) {
			return err
		}
		p.session.logger.Info("the next events are no longer held; they are made anew from the log", "after_record", p.sequence, "after_revision", p.session.position.Load())
		next, stop := iter.Pull2(p.log.History(ctx, p.sequence))
		p.history = &history{next, stop}
	}
	release := p.hold(ctx, p.pin)
	defer release()
	err := p.publishHistory(ctx, sequence)
	if errors.Is(err, kv.ErrCompacted) {
		return p.passOver(ctx, sequence)
	}
	if err == nil && p.caughtUp(ctx) {
		p.leaveHistory()
	}
	return err
}

// publishHeld publishes the events up to a revision that the store holds. It
// fails with [kv.ErrCompacted] where it does not.
func (p *publisher) publishHeld(ctx context.Context, revision uint64) error {
	s := p.session
	for s.position.Load() < revision {
		after := s.position.Load()
		n, err := p.log.Events(after, p.buffer[:min(eventBuffer, revision-after)])
		if err != nil {
			return err
		}
		for _, event := range p.buffer[:n] {
			if err := s.publish(ctx, event); err != nil {
				return err
			}
		}
		clear(p.buffer[:n])
	}
	return nil
}

// publishHistory publishes events up to those of the record at sequence from the
// history.
func (p *publisher) publishHistory(ctx context.Context, sequence uint64) error {
	s := p.session
	for p.sequence < sequence {
		events, err, ok := p.history.next()
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("the history of the store ended")
		}
		for event := range events {
			if event.Revision <= s.position.Load() {
				continue // it was published while it was held
			}
			if err := s.publish(ctx, event); err != nil {
				return err
			}
		}
		p.sequence++
	}
	return nil
}

// caughtUp reports whether the store holds the next event, and will for a while:
// to begin another history costs much.
func (p *publisher) caughtUp(ctx context.Context) bool {
	newest, err := p.log.RevisionAfter(ctx, p.log.Applied())
	if err != nil {
		return false
	}
	position, oldest := p.session.position.Load(), p.log.OldestRevision()
	return position+1 >= oldest && 2*position >= oldest+newest-1
}

func (p *publisher) leaveHistory() {
	if p.history != nil {
		p.history.stop()
		p.history = nil
	}
}

// passOver gives up the events up to those of the record at sequence that can't
// be had, unless another worker has published them meanwhile.
func (p *publisher) passOver(ctx context.Context, sequence uint64) error {
	p.leaveHistory()
	published, _, err := p.log.Published(ctx, Cursor)
	if err != nil {
		return err
	}
	if published > p.sequence {
		return errOvertaken
	}
	revision, err := p.log.RevisionAfter(ctx, sequence)
	if errors.Is(err, kv.ErrCompacted) {
		p.sequence = sequence // its events are counted with those of a later record
		return nil
	}
	if err == nil {
		err = p.publishRest(ctx, revision, "no snapshot and no log lead to them")
	}
	if err == nil {
		p.sequence = sequence
	}
	return err
}

// publishRest publishes what the store holds of the events up to a revision, and gives
// up the others.
func (p *publisher) publishRest(ctx context.Context, revision uint64, reason string) error {
	for {
		err := p.publishHeld(ctx, revision)
		if errors.Is(err, kv.ErrCompacted) {
			err = p.session.lose(ctx, p.session.position.Load()+1, min(p.log.OldestRevision()-1, revision), reason)
			if err == nil {
				continue
			}
		}
		return err
	}
}

// hold tells JetStream now and then that this worker still publishes, which it
// sees otherwise only by the requests for more records. Those end while a record
// takes long, as does the first one of a history: another worker would be
// elected, and begin with the same. A request for records of a size that none
// has is heard, and gets none.
func (p *publisher) hold(ctx context.Context, pin string) (release func()) {
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	var holding sync.WaitGroup
	holding.Go(func() {
		ticker := time.NewTicker(pinTime / 4)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if err := p.askForNothing(pin); err != nil {
					return // the session ends by itself
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		holding.Wait()
	}
}

func (p *publisher) askForNothing(pin string) error {
	query, err := json.Marshal(struct {
		Batch    int           `json:"batch"`
		MaxBytes int           `json:"max_bytes"`
		Expires  time.Duration `json:"expires"`
		Group    string        `json:"group"`
		Pin      string        `json:"id"`
	}{1, 1, pinTime / 8, publisherGroup, pin})
	if err != nil {
		return err
	}
	return p.session.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+p.log.Stream()+"."+Cursor, p.session.nc.NewInbox(), query)
}
