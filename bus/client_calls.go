package bus

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

const (
	// lookInterval is how often the connection is looked at while calls are under
	// way, and idleLooks how often in vain before that ends.
	lookInterval = 20 * time.Millisecond
	idleLooks    = 100
)

// A call is a request that was sent, up to its answer.
type call struct {
	subject    string
	connection uint64 // the number of the one that carries it
	wake       chan struct{}

	// What follows is guarded by the lock of the calls.
	answers []*nats.Msg
	taken   int
	bytes   int
	failure error
	room    [1]*nats.Msg // most answers are one message
}

// calls are the calls of a client that are under way. Answers come by one
// subscription, as those of [nats.Conn.Request] do; unlike there, an answer may
// have many messages, and calls learn that their connection was lost, or that
// they were forbidden.
type calls struct {
	nc       *nats.Conn
	inbox    string // the subject of an answer is this and the number of the call
	sub      *nats.Subscription
	maxBytes int

	status  chan nats.Status
	rouse   chan struct{} // wakes the look at the connection
	stop    chan struct{}
	stopped sync.WaitGroup

	mu        sync.Mutex
	last      uint64
	pending   map[uint64]*call
	seen      connection    // as of the last look
	away      error         // why nothing can be sent; nil while there is a connection
	connected chan struct{} // closed when the connection comes back
	idle      bool          // the connection is looked at only when its status changes, or a call comes
	known     error         // the last violation of permissions that the calls were told of
	// inboxErr says that the subscription is forbidden on that connection.
	inboxErr error
	inboxOn  uint64
}

// A connection tells one connection to a server from that after a reconnect.
type connection struct {
	number uint64 // how often it was lost before
	up     bool
}

// lost reports whether what was sent on a connection of that number has lost it.
func (c connection) lost(number uint64) bool {
	return number < c.number || number == c.number && !c.up
}

var (
	// errLost: the connection was lost, and perhaps an answer with it.
	errLost = errors.New("the connection was lost before the answer came")
	// errTooMuch: the answer is over the client's limit.
	errTooMuch = fmt.Errorf("%w: the answer has more than the client's MaxAnswerBytes; ask for pages", kv.ErrValueTooLarge)
	// errDisconnected: the request was not sent.
	errDisconnected = fmt.Errorf("%w: there is no connection to a server", kv.ErrUnavailable)
)

func newCalls(nc *nats.Conn, maxBytes int) (*calls, error) {
	c := &calls{
		nc:        nc,
		inbox:     nc.NewInbox() + ".",
		maxBytes:  maxBytes,
		rouse:     make(chan struct{}, 1),
		stop:      make(chan struct{}),
		pending:   make(map[uint64]*call),
		connected: make(chan struct{}),
	}
	var err error
	if c.sub, err = nc.Subscribe(c.inbox+"*", c.receive); err != nil {
		return nil, err
	}
	// What may come is what was asked for, and that is bounded.
	if err = c.sub.SetPendingLimits(-1, -1); err != nil {
		return nil, err
	}
	c.status = nc.StatusChanged(nats.RECONNECTING, nats.CONNECTED, nats.CLOSED)
	c.lookOnce()
	c.rouse <- struct{}{} // for the server's answer to the subscription
	c.stopped.Go(c.look)
	return c, nil
}

// close ends the subscription. Calls that are under way see the end of their
// client by themselves.
func (c *calls) close() {
	_ = c.sub.Unsubscribe() // of a connection that is closed there is none left
	close(c.stop)
	c.stopped.Wait()
	c.nc.RemoveStatusListener(c.status)
}

// currentConnection returns the connection that nc has, and its last error if that
// is about permissions.
func currentConnection(nc *nats.Conn) (current connection, violation error) {
	for {
		number := nc.Stats().Reconnects
		up, last := nc.IsConnected(), nc.LastError()
		if nc.Stats().Reconnects != number {
			continue
		}
		if !errors.Is(last, nats.ErrPermissionViolation) {
			last = nil
		}
		return connection{number, up}, last
	}
}

// add starts a call. If it fails the request must not be sent.
func (c *calls) add(subject string) (id uint64, one *call, err error) {
	one = &call{subject: subject, wake: make(chan struct{}, 1)}
	one.answers = one.room[:0]
	// The connection has a lock of its own, which it may hold for as long as it
	// dials; neither this call nor those who wait for answers must wait for that.
	if away := c.gone(); away != nil {
		return 0, nil, away
	}
	current, violation := currentConnection(c.nc)
	if !current.up {
		if c.nc.IsClosed() {
			return 0, nil, connectionError(nats.ErrConnectionClosed)
		}
		return 0, nil, errDisconnected
	}
	one.connection = current.number
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(current, violation) // before this call is there, which it is not about
	if c.inboxErr != nil && c.inboxOn == current.number {
		return 0, nil, forbidden(c.inboxErr)
	}
	if c.seen.lost(current.number) {
		return 0, nil, errDisconnected
	}
	c.last++
	c.pending[c.last] = one
	if c.idle {
		c.idle = false
		select {
		case c.rouse <- struct{}{}:
		default:
		}
	}
	return c.last, one, nil
}

// remove ends a call. What comes for it later is dropped.
func (c *calls) remove(id uint64) {
	c.mu.Lock()
	delete(c.pending, id)
	c.mu.Unlock()
}

// reply is the subject of the answer to a call.
func (c *calls) reply(id uint64) string { return c.inbox + strconv.FormatUint(id, 36) }

// receive takes a message of an answer.
func (c *calls) receive(m *nats.Msg) {
	id, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, c.inbox), 36, 64)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	one, ok := c.pending[id]
	if !ok || one.failure != nil {
		return
	}
	one.bytes += m.Size()
	if one.bytes > c.maxBytes && len(one.answers)+one.taken > 0 && !endsStream(m) {
		one.fail(errTooMuch)
		return
	}
	one.answers = append(one.answers, m)
	one.signal()
}

// endsStream reports whether no more messages of the answer come. An entry that is
// over the limit by itself is one that can be read, and this is what comes after it.
func endsStream(m *nats.Msg) bool {
	hs, err := readReply(m)
	return err != nil || hs.isEnd()
}

// take returns the messages that came since the last time, and why no more will
// come, if it is known.
func (c *calls) take(one *call, before []*nats.Msg) (answers []*nats.Msg, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answers = one.answers
	one.taken += len(answers)
	one.answers = before[:0]
	return answers, one.failure
}

// fail ends the wait for an answer.
func (one *call) fail(err error) {
	if one.failure == nil {
		one.failure = err
		one.signal()
	}
}

func (one *call) signal() {
	select {
	case one.wake <- struct{}{}:
	default:
	}
}

// look looks after the connection until the end of the client.
func (c *calls) look() {
	ticker := time.NewTicker(time.Hour)
	ticker.Stop()
	defer ticker.Stop()
	vain := 0
	for {
		select {
		case <-c.stop:
			return
		case <-c.rouse:
			vain = 0
			ticker.Reset(lookInterval)
		case status := <-c.status:
			c.hear(status)
			vain = 0 // a new connection has an answer to the subscription too
			ticker.Reset(lookInterval)
		case <-ticker.C:
		}
		if c.lookOnce() {
			vain = 0
		} else if vain++; vain >= idleLooks && c.rest() {
			ticker.Stop()
		}
	}
}

// rest ends the looks, unless a call came.
func (c *calls) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = len(c.pending) == 0
	return c.idle
}

// hear takes a change of the connection, which itself may be busy for long from then on.
// It comes after the last look: the connection that was seen then is the one that is
// lost, or was lost before.
func (c *calls) hear(status nats.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch status {
	case nats.RECONNECTING:
		c.away = errDisconnected
	case nats.CLOSED:
		c.away = connectionError(nats.ErrConnectionClosed)
	default: // the next look knows more
		return
	}
	for _, one := range c.pending {
		if one.connection <= c.seen.number {
			one.fail(errLost)
		}
	}
}

// gone returns why nothing can be sent, as far as is known.
func (c *calls) gone() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away
}

// lookOnce tells the calls what has become of the connection. It reports whether
// there are any.
func (c *calls) lookOnce() (busy bool) {
	current, violation, closed := c.current()
	c.mu.Lock()
	defer c.mu.Unlock()
	if current != c.seen {
		for _, one := range c.pending {
			if current.lost(one.connection) {
				one.fail(errLost)
			}
		}
		if current.up || closed {
			close(c.connected)
			c.connected = make(chan struct{})
		}
		c.seen = current
	}
	switch {
	case current.up:
		c.away = nil
	case closed:
		c.away = connectionError(nats.ErrConnectionClosed)
	default:
		c.away = errDisconnected
	}
	c.learn(current, violation)
	return len(c.pending) > 0
}

// current returns the connection as it is when all its changes before have been heard.
func (c *calls) current() (current connection, violation error, closed bool) {
	for {
		select {
		case status := <-c.status:
			c.hear(status)
			continue
		default:
		}
		current, violation = currentConnection(c.nc)
		closed = c.nc.IsClosed()
		if len(c.status) == 0 {
			return current, violation, closed
		}
	}
}

// learn tells the calls of the last violation that a connection knows, if it is news.
// It is called with the lock.
func (c *calls) learn(current connection, violation error) {
	if violation == c.known { //nolint:errorlint // another error, not another kind
		return
	}
	c.known = violation
	c.tell(current.number, violation)
}

// back returns a channel that is closed when the connection comes back.
func (c *calls) back() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected
}

// refused tells the calls of an error of the connection.
func (c *calls) refused(err error) {
	current, _ := currentConnection(c.nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(current.number, err)
}

// tell is refused for an error of the connection of that number. It is called with the
// lock.
func (c *calls) tell(number uint64, err error) {
	action, subject, ok := PermissionViolation(err)
	switch {
	case !ok:
	case action == ActionPublish:
		for id, one := range c.pending {
			if one.connection == number && (subject == one.subject || subject == c.reply(id)) {
				one.fail(forbidden(err))
			}
		}
	case subject == c.sub.Subject && number >= c.inboxOn:
		c.inboxErr, c.inboxOn = err, number
		for _, one := range c.pending {
			if one.connection == number {
				one.fail(fmt.Errorf("%w: %w", ErrNoInbox, err))
			}
		}
	}
}
