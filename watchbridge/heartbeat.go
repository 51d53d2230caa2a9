package watchbridge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
)

const (
	// burstHeartbeat is how long after an event the next heartbeat comes at most,
	// and the shortest time between two of them.
	burstHeartbeat = time.Second
	// idleHeartbeat is the time between heartbeats while nothing happens.
	idleHeartbeat = 10 * time.Second
)

// A pulse publishes heartbeats on one connection. All workers of a store hear
// those of the others, and keep quiet where one came in time.
type pulse struct {
	bridge      *Bridge
	nc          *nats.Conn
	log         Log                     // nil where nobody shares the store
	end         context.CancelCauseFunc // of the session
	burst, idle time.Duration
	sent        uint64         // the revision of the last heartbeat that a change brought about
	beats       chan *nats.Msg // those of all workers
}

// startPulse begins with a heartbeat where the store is of this worker alone: a
// new life is told before its first event.
func (s *session) startPulse(end context.CancelCauseFunc) *pulse {
	p := &pulse{bridge: s.Bridge, nc: s.nc, end: end, burst: s.opts.BurstHeartbeat, idle: s.opts.IdleHeartbeat}
	p.log, _ = s.source.(Log)
	if p.log == nil {
		p.beat(s.confirmed.Load())
	}
	return p
}

// run publishes heartbeats until ctx ends or the connection breaks, which others
// notice.
func (p *pulse) run(ctx context.Context) {
	b := p.bridge
	p.beats = make(chan *nats.Msg, 16)
	if _, err := p.nc.ChanSubscribe(b.opts.Subjects.HeartbeatSubject(), p.beats); err != nil {
		b.logger.Debug("heartbeats of other workers can't be heard", "error", err)
	}
	var due <-chan time.Time
	// The first comes soon: who watched before may have waited for this worker.
	rest := time.NewTimer(p.burst + rand.N(p.burst))
	defer rest.Stop()
	for {
		select {
		case <-b.advanced:
			if due == nil {
				due = time.After(p.burst)
			}
		case <-due:
			due = nil
			if revision := b.confirmed.Load(); revision > p.sent {
				p.sent = revision
				p.beat(revision)
			}
		case m := <-p.beats: // its own come back as well
			p.hear(m)
		case <-rest.C:
			p.beatIdle(ctx)
		case <-ctx.Done():
			return
		}
		rest.Reset(p.pause())
	}
}

func (p *pulse) hear(m *nats.Msg) {
	if beat, err := bus.DecodeHeartbeat(m); err == nil && beat.Revision > p.bridge.heard.Load() {
		p.bridge.heard.Store(beat.Revision)
	}
}

// pause is the time until an idle heartbeat is due, another one in each worker.
func (p *pulse) pause() time.Duration { return p.idle + rand.N(p.idle/4+1) }

func (p *pulse) beat(revision uint64) {
	m := p.bridge.opts.Subjects.EncodeHeartbeat(bus.Heartbeat{Revision: revision, Epoch: p.bridge.epoch})
	if err := p.nc.PublishMsg(m); err != nil {
		p.end(fmt.Errorf("a heartbeat: %w", err)) // events that waited in the connection may be lost with it
	}
}

// beatIdle tells how far the events came. Where workers share the store, another
// one may have published them; JetStream knows.
func (p *pulse) beatIdle(ctx context.Context) {
	if p.log == nil {
		p.beat(p.bridge.confirmed.Load())
		return
	}
	revision, err := p.acknowledged(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.bridge.logger.Debug("how far the events came is not known", "error", err)
		}
		return
	}
	// Marks are acknowledged a little later than events are published, and others
	// may have told of those while JetStream was asked.
	for len(p.beats) > 0 {
		p.hear(<-p.beats)
	}
	revision = max(revision, p.bridge.heard.Load(), p.bridge.confirmed.Load())
	p.beat(revision)
	if newest, err := p.log.RevisionAfter(ctx, p.log.Applied()); err == nil && revision < newest {
		// Nobody publishes, or the last mark is lost: a mark elects somebody.
		p.log.Mark()
	}
}

// acknowledged returns the revision up to which any worker has published, and 0 where
// the log does not tell.
func (p *pulse) acknowledged(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	published, known, err := p.log.Published(ctx, Cursor)
	if err != nil || !known {
		return 0, err
	}
	return p.log.RevisionAfter(ctx, published)
}
