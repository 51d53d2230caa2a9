package replicated

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"kvbus/kv"
)

// tick is how often the pipeline looks for what waits for too long.
const tick = 50 * time.Millisecond

// waitsSince returns since when a member of a batch waits.
func (p proposal) waitsSince() time.Time { return p.since }
func (r reader) waitsSince() time.Time   { return r.since }

// lookSoon has what waits looked at in a while.
func (p *pipeline) lookSoon() {
	switch {
	case p.ticking || p.waiting == 0:
		return
	case p.ticker == nil:
		p.ticker = time.AfterFunc(tick, p.look)
	default:
		p.ticker.Reset(tick)
	}
	p.ticking = true
}

// look goes over what waits: it appends again what may be lost, and gives up
// what waits for too long.
func (p *pipeline) look() {
	p.mu.Lock()
	now := time.Now()
	limit := now.Add(-p.store.opts.Timeout)
	var given []func()

	if f := p.flight; f != nil {
		// Some may have waited for the batch before it already.
		if unseen, unread := late(f.proposals[f.given:], limit), late(f.readers, limit); unseen+unread > 0 {
			p.fails(f.verdict())
			given = append(given, p.give(f.proposals[f.given:f.given+unseen], f.readers[:unread], f.verdict()))
			f.given, f.readers = f.given+unseen, f.readers[unread:]
			if f.members() == 0 || f.undone() {
				// Those that were told that nothing was done are not appended again.
				p.queue = slices.Concat(f.proposals[f.given:], p.queue)
				p.readers = slices.Concat(f.readers, p.readers)
				p.flight = nil
			}
		}
	}
	if unsent, unread := late(p.queue, limit), late(p.readers, limit); unsent+unread > 0 {
		given = append(given, p.give(p.queue[:unsent], p.readers[:unread], p.waitedInVain()))
		p.queue, p.readers = p.queue[unsent:], p.readers[unread:]
	}
	if p.flight != nil && p.flight.due.Before(now) {
		p.resend()
	}
	if p.flight == nil && p.queued() > 0 {
		signal(p.launches)
	}
	p.ticking = false
	p.lookSoon()
	p.mu.Unlock()
	for _, done := range given {
		done()
	}
}

// late returns how many have waited since before limit. They are in the order in which
// they came.
func late[W interface{ waitsSince() time.Time }](waiting []W, limit time.Time) int {
	n := 0
	for n < len(waiting) && waiting[n].waitsSince().Before(limit) {
		n++
	}
	return n
}

// waitedInVain is the error of what was never in a batch: those before it took too
// long.
func (p *pipeline) waitedInVain() error {
	if p.refusal != nil {
		return fmt.Errorf("%w: %w: %w", kv.ErrUnavailable, ErrNotTaken, p.refusal)
	}
	return fmt.Errorf("%w: %w", kv.ErrUnavailable, ErrNotTaken)
}

// fails tells the operator, once, that requests are given up.
func (p *pipeline) fails(reason error) {
	if p.failing.IsZero() {
		p.failing = time.Now()
		p.store.logger.Warn("requests fail: a batch was not seen in the log in time", "after", p.store.opts.Timeout, "reason", reason)
	}
	if errors.Is(reason, kv.ErrTimeout) {
		p.silent = time.Now()
	}
}

// silence returns for how long JetStream has said nothing to any batch, up to
// the last one that was given up.
func (p *pipeline) silence() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing.IsZero() || p.silent.Before(p.failing) {
		return 0
	}
	return p.silent.Sub(p.failing)
}

// succeeds tells that they are not any more.
func (p *pipeline) succeeds() {
	if !p.failing.IsZero() {
		p.store.logger.Info("requests are answered again", "after", time.Since(p.failing))
		p.failing = time.Time{}
	}
}

// give returns what tells proposals and readers of err, to be called without
// the lock. They no longer wait.
func (p *pipeline) give(proposals []proposal, readers []reader, err error) func() {
	p.waiting -= len(proposals) + len(readers)
	unread := fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	if errors.Is(err, kv.ErrTimeout) {
		unread = fmt.Errorf("%w: %w", kv.ErrUnavailable, ErrNotTaken) // a read has no outcome that could be unknown
	}
	return func() {
		for _, proposal := range proposals {
			proposal.done(kv.Result{}, err)
		}
		for _, reader := range readers {
			reader.done(unread)
		}
	}
}
