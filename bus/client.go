package bus

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

var _ kv.Store = (*Client)(nil)

// The defaults of [ClientOptions].
const (
	DefaultTimeout        = 10 * time.Second
	DefaultAttemptTimeout = 3 * time.Second
	DefaultRepeatWindow   = kv.DefaultRequestAge / 2
	DefaultMaxCalls       = 1024
	DefaultMaxAnswerBytes = 256 << 20
)

// ClientOptions configure a client. The zero value means the defaults.
type ClientOptions struct {
	// Prefix is the prefix of the service's subjects, [DefaultPrefix] if empty.
	Prefix string
	// Timeout bounds a call whose context has no deadline.
	Timeout time.Duration
	// AttemptTimeout is how long a request that may be sent again, also one of a
	// watch, waits for an answer, or for the next message of one, before it is.
	// Each further attempt of a call waits twice as long as the one before, up to a
	// minute.
	AttemptTimeout time.Duration
	// RepeatWindow is how long after its first attempt a command with a request id
	// is sent again when it is not known what came of it. It must be well below
	// the MaxRequestAge of the store's [kv.Limits].
	RepeatWindow time.Duration
	// NoRetry has each request sent once.
	NoRetry bool
	// MaxCalls bounds the calls that are under way; others wait for their turn.
	MaxCalls int
	// MaxAnswerBytes bounds the messages of one answer to a scan or a replay, by the
	// sum of their sizes. An answer with one entry or event may have any size.
	MaxAnswerBytes int
}

// A Client is the store behind a kvbus service, by way of a connection. It is
// safe for concurrent use.
type Client struct {
	nc       *nats.Conn
	subjects Subjects
	opts     ClientOptions

	slots chan struct{} // one for each call that is under way
	calls *calls
	hub   watchHub // of the watches

	closeOnce sync.Once
	closed    chan struct{}
}

// NewClient returns a client on a connection, which stays the caller's. It sends
// nothing but a subscription for the answers, and need not be connected yet. It
// fails with [kv.ErrInvalidArgument], and with [kv.ErrClosed] if the connection
// is closed.
func NewClient(nc *nats.Conn, opts ClientOptions) (*Client, error) {
	subjects, err := NewSubjects(opts.Prefix)
	if err != nil {
		return nil, err
	}
	if opts, err = opts.withDefaults(); err != nil {
		return nil, err
	}
	// As long as that of a call can be: it would get no answer.
	longest := nc.NewInbox() + "." + strconv.FormatUint(math.MaxUint64, 36)
	if err := subjects.ValidateReply(longest); err != nil {
		return nil, fmt.Errorf("the connection's inbox prefix: %w", err)
	}
	c := &Client{
		nc:       nc,
		subjects: subjects,
		opts:     opts,
		slots:    make(chan struct{}, opts.MaxCalls),
		closed:   make(chan struct{}),
	}
	if c.calls, err = newCalls(nc, opts.MaxAnswerBytes); err != nil {
		return nil, fmt.Errorf("subscribe to the answers: %w", connectionError(err))
	}
	return c, nil
}

func (o ClientOptions) withDefaults() (ClientOptions, error) {
	err := checkBounds([]bound{
		{"Timeout", int64(o.Timeout)}, {"AttemptTimeout", int64(o.AttemptTimeout)}, {"RepeatWindow", int64(o.RepeatWindow)},
		{"MaxCalls", int64(o.MaxCalls)}, {"MaxAnswerBytes", int64(o.MaxAnswerBytes)},
	})
	if err != nil {
		return o, err
	}
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.AttemptTimeout = cmp.Or(o.AttemptTimeout, DefaultAttemptTimeout)
	o.RepeatWindow = cmp.Or(o.RepeatWindow, DefaultRepeatWindow)
	o.MaxCalls = cmp.Or(o.MaxCalls, DefaultMaxCalls)
	o.MaxAnswerBytes = cmp.Or(o.MaxAnswerBytes, DefaultMaxAnswerBytes)
	return o, nil
}

// Close implements [kv.Store]. The connection stays open. A command that was sent
// and not answered yet fails with [kv.ErrTimeout], as nobody knows what comes of
// it.
func (c *Client) Close() error {
	c.closeOnce.Do(func() {
		close(c.closed)
		c.hub.abandon()
		c.calls.close()
	})
	return nil
}

// HandleError takes an error of the client's connection, as the
// [nats.ErrHandler] of that connection gets it. It is optional: without it, calls
// that a permission forbids are found by [nats.Conn.LastError], which knows the
// last one only, so that of several at a time some may end by their time-out. The
// client installs no handler; call this from the one that the connection has.
func (c *Client) HandleError(_ *nats.Conn, _ *nats.Subscription, err error) {
	c.calls.refused(err)
}

// bounded returns a context that has a deadline.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.opts.Timeout)
}

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// enter waits for the turn of a call; leave ends it.
func (c *Client) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.isClosed() {
		return errClientClosed
	}
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-c.closed:
		return errClientClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %d calls of this client are under way: %w", kv.ErrOverloaded, cap(c.slots), ctx.Err())
	}
}

func (c *Client) leave() { <-c.slots }
