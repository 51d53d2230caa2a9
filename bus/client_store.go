package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// Do implements [kv.Store]. It fails with [errors.ErrUnsupported] for
// [kv.OpSetLimits] and [kv.OpSweep], which are not on the wire.
func (c *Client) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	m, err := c.subjects.EncodeCommand(cmd)
	if err != nil {
		return kv.Result{}, err
	}
	op := opOf(cmd.Op)
	var result kv.Result
	err = c.call(ctx, &request{
		msg:      m,
		harmless: cmd.RequestID != "",
		window:   c.opts.RepeatWindow,
		receive: func(m *nats.Msg) (last bool, err error) {
			result, err = DecodeResult(op, m)
			return true, err
		},
	})
	return result, err
}

// Get implements [kv.Store].
func (c *Client) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	var entry kv.Entry
	err := c.read(ctx, OpGet, key, opts, func(m *nats.Msg) (err error) {
		entry, err = DecodeValue(key, m)
		return err
	})
	return entry, err
}

// Exists says whether key is live. Its value stays where it is.
func (c *Client) Exists(ctx context.Context, key string, opts kv.ReadOptions) (bool, error) {
	var live bool
	err := c.read(ctx, OpExists, key, opts, func(m *nats.Msg) (err error) {
		_, live, err = DecodeExists(key, m)
		return err
	})
	return live, err
}

// TTL returns the time that key has left, by the clock of the service; never is
// true if it has no deadline. It fails with [kv.ErrNotFound] if no live key is
// there.
func (c *Client) TTL(ctx context.Context, key string, opts kv.ReadOptions) (left time.Duration, never bool, err error) {
	err = c.read(ctx, OpTTL, key, opts, func(m *nats.Msg) (err error) {
		left, _, err = DecodeTTL(key, m)
		return err
	})
	return left, err == nil && left == 0, err
}

func (c *Client) read(ctx context.Context, op Op, key string, opts kv.ReadOptions, decode func(m *nats.Msg) error) error {
	m, err := c.subjects.EncodeRead(op, key, opts)
	if err != nil {
		return err
	}
	return c.ask(ctx, m, decode)
}

// ask makes a request that changes nothing, and has one answer.
func (c *Client) ask(ctx context.Context, m *nats.Msg, decode func(m *nats.Msg) error) error {
	return c.call(ctx, &request{
		msg:      m,
		harmless: true,
		receive:  func(m *nats.Msg) (bool, error) { return true, decode(m) },
	})
}

// Info implements [kv.Store].
func (c *Client) Info(ctx context.Context) (kv.Info, error) {
	info, err := c.ServiceInfo(ctx, kv.ReadOptions{})
	return info.Info, err
}

// ServiceInfo describes the service with its store. In the MaxValueSize of the
// service is what its bus carries. An eventual one is what the worker that answers
// knows, and needs nothing of the log: it comes during an outage, too.
func (c *Client) ServiceInfo(ctx context.Context, opts kv.ReadOptions) (Info, error) {
	return c.serviceInfo(ctx, opts, false)
}

func (c *Client) serviceInfo(ctx context.Context, opts kv.ReadOptions, once bool) (info Info, err error) {
	m, err := c.subjects.EncodeInfo(opts)
	if err != nil {
		return Info{}, err
	}
	err = c.call(ctx, &request{
		msg:      m,
		harmless: true,
		once:     once,
		receive: func(m *nats.Msg) (last bool, err error) {
			info, err = DecodeInfo(m)
			return true, err
		},
	})
	return info, err
}
