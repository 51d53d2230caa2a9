package replicated

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

const (
	// maxBatch is the number of commands in a batch, so that none is under way
	// for long.
	maxBatch = 4096
	// resendDelay is how long a batch may stay unseen in the log before it is
	// appended again, and resendRefused the same for one of which it is known
	// that it is not there.
	resendDelay   = time.Second
	resendRefused = 100 * time.Millisecond
)

// A pipeline appends commands to the log, in batches, and holds those that wait
// for their result, and the reads that wait for a batch. One batch is under way at
// a time: more make the batches smaller, and with them the gain from gathering,
// most of all where each waits for the disk.
type pipeline struct {
	store   *Store
	subject string
	marked  string // the subject of marks
	inbox   string

	mu      sync.Mutex
	queue   []proposal
	readers []reader
	flight  *flight // nil while none is under way
	number  uint64  // of the last batch
	waiting int     // commands and reads in all of the above
	gather  gathering
	room    int // how many bytes of commands a record carries, when last asked
	closed  error
	refusal error     // of the last batch that was refused; nil since one was taken
	failing time.Time // since when requests are given up; zero while they are not
	silent  time.Time // when JetStream last said nothing to one of them
	ticker  *time.Timer
	ticking bool
	// launches has a mark when there may be something to append.
	launches chan struct{}
	buffer   []byte // of run
}

// A proposal is a command that waits for its result.
type proposal struct {
	cmd   kv.Command
	done  func(kv.Result, error)
	since time.Time
}

// A reader is a read that waits for a batch.
type reader struct {
	done  func(error)
	since time.Time
}

func (p *pipeline) init(s *Store) {
	p.store = s
	p.launches = make(chan struct{}, 1)
	p.subject, p.marked = logSubject(s.opts.Prefix), markSubject(s.opts.Prefix)
	p.inbox = s.nc.NewInbox()
	p.room = recordRoom(s.nc)
}

// recordRoom returns how many bytes of commands a record carries, as the server says.
// It uses the connection.
func recordRoom(nc *nats.Conn) int { return int(nc.MaxPayload()) - recordOverhead }

// submit queues a command.
func (p *pipeline) submit(cmd kv.Command, done func(kv.Result, error)) {
	err := func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := p.admit(); err != nil {
			return err
		}
		if size := commandSize(&cmd); size > p.room {
			return fmt.Errorf("%w: the command takes %d bytes of the log, a record carries %d", kv.ErrValueTooLarge, size, p.room)
		}
		p.waiting++
		now := time.Now()
		p.queue = append(p.queue, proposal{cmd, done, now})
		p.launchSoon(now)
		p.lookSoon()
		return nil
	}()
	if err != nil {
		done(kv.Result{}, err)
	}
}

// read lets done be called when a batch that was appended after now is applied.
func (p *pipeline) read(done func(error)) {
	err := func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := p.admit(); err != nil {
			return err
		}
		p.waiting++
		now := time.Now()
		p.readers = append(p.readers, reader{done, now})
		p.launchSoon(now)
		p.lookSoon()
		return nil
	}()
	if err != nil {
		done(err)
	}
}

func (p *pipeline) admit() error {
	if p.closed != nil {
		return p.closed
	}
	if p.waiting >= p.store.opts.MaxPending {
		return fmt.Errorf("%w: %d requests wait for the log", kv.ErrOverloaded, p.waiting)
	}
	return nil
}

// launchSoon has what waits appended by another goroutine, unless a batch is under
// way or the next one is being gathered.
func (p *pipeline) launchSoon(now time.Time) {
	if n := p.queued(); p.flight == nil && n > 0 && p.gather.over(now, n) {
		signal(p.launches)
	}
}

// queued returns how many commands and reads wait for the next batch.
func (p *pipeline) queued() int { return len(p.queue) + len(p.readers) }

// run appends what waits, until ctx ends. Before it does, it lets those run that
// are about to add to it: the batches are twice as large under load, and the
// cost of one is that of a dozen commands. On an idle machine that takes no time.
//
// It alone publishes, and without the lock: a connection that takes nothing keeps
// whoever uses it waiting, and those who have requests are to be answered in time.
func (p *pipeline) run(ctx context.Context) {
	for {
		select {
		case <-p.launches:
		case <-ctx.Done():
			return
		}
		runtime.Gosched()
		runtime.Gosched()
		room := recordRoom(p.store.nc)
		p.mu.Lock()
		p.room = room
		f := p.launch()
		p.mu.Unlock()
		if f != nil {
			p.publish(f)
		}
	}
}

// launch makes a batch of what waits, or of as much of it as a record carries, unless
// one is under way. It returns the one that is to be appended now, nil if none is.
func (p *pipeline) launch() *flight {
	if p.flight == nil && p.queued() > 0 {
		room, n := p.room, 0
		for n < min(len(p.queue), maxBatch) {
			if room -= commandSize(&p.queue[n].cmd); room < 0 && n > 0 {
				break
			}
			n++
		}
		p.number++
		p.flight = &flight{number: p.number, proposals: p.queue[:n:n], readers: p.readers, marked: p.store.marks.due(), full: n < len(p.queue), unsent: true}
		p.readers = nil
		if p.queue = p.queue[n:]; len(p.queue) == 0 {
			p.queue = nil
		}
	}
	f := p.flight
	if f == nil || !f.unsent {
		return nil
	}
	f.send()
	return f
}

// publish appends a batch, once more or for the first time. The lock is not held.
func (p *pipeline) publish(f *flight) {
	b := batch{Worker: p.store.id, Number: f.number, Base: f.number, Commands: make([]kv.Command, len(f.proposals))}
	for i := range f.proposals {
		b.Commands[i] = f.proposals[i].cmd
	}
	p.buffer = b.append(p.buffer[:0])
	subject := p.subject
	if f.marked {
		subject = p.marked
	}
	err := p.store.nc.PublishMsg(&nats.Msg{
		Subject: subject,
		Reply:   fmt.Sprintf("%s.%d", p.inbox, f.number),
		Data:    p.buffer,
	})
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		f.refused(err)
	}
}

// acknowledged takes JetStream's answer to a send. That a batch is stored is
// learned from the log itself; that it is not is learned here.
func (p *pipeline) acknowledged(m *nats.Msg) {
	sequence, reason := acknowledgement(m)
	if reason == nil {
		p.store.feed.expect(sequence)
		return
	}
	if errors.Is(reason, errFull) {
		signal(p.store.full)
	}
	number, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, p.inbox+"."), 10, 64)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusal = reason
	if f := p.flight; f != nil && f.number == number {
		f.refused(reason)
	}
}

// complete answers a batch that was applied.
func (p *pipeline) complete(number uint64, outcomes []outcome) {
	p.mu.Lock()
	landed := p.flight
	if landed == nil || landed.number != number {
		p.mu.Unlock()
		return // it was given up before
	}
	p.flight, p.refusal = nil, nil
	p.waiting -= landed.members()
	p.succeeds()
	if landed.full || departs(landed.members(), p.queued()) {
		signal(p.launches)
	} else {
		now := time.Now()
		p.gather.begin(now, now.Sub(landed.sent), landed.members()+p.queued(), p.gathered)
		p.launchSoon(now)
	}
	p.mu.Unlock()
	for i, proposal := range landed.proposals[landed.given:] {
		i += landed.given
		proposal.done(outcomes[i].result, outcomes[i].err)
	}
	for _, reader := range landed.readers {
		reader.done(nil)
	}
}

// gathered has what waits appended once those that were waited for had their time.
func (p *pipeline) gathered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.launchSoon(time.Now())
}

// reconnected appends the batch under way again: what the old connection had may
// be lost.
func (p *pipeline) reconnected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resend()
}

// resend has the batch under way appended again.
func (p *pipeline) resend() {
	if p.flight != nil {
		p.flight.unsent = true
		signal(p.launches)
	}
}

// close ends the pipeline: what was appended has an unknown outcome, the rest
// fails with err.
func (p *pipeline) close(err error) {
	p.mu.Lock()
	if p.closed != nil {
		p.mu.Unlock()
		return
	}
	p.closed = err
	if p.ticker != nil {
		p.ticker.Stop()
	}
	p.gather.stop()
	var given []func()
	if f := p.flight; f != nil {
		given = append(given, p.give(f.proposals[f.given:], f.readers, f.verdict()))
	}
	given = append(given, p.give(p.queue, p.readers, err))
	p.flight, p.queue, p.readers = nil, nil, nil
	p.mu.Unlock()
	for _, done := range given {
		done()
	}
}
