package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/kv"
)

// headerRoom is what a message may need beside a value: the headers of an
// entry in a stream of replies, with the longest key and trace context.
const headerRoom = 4 << 10

// MaxPayload returns the max_payload that a server needs for values of up to
// size bytes in every request and answer: a compare-and-swap carries two.
func MaxPayload(size int) int { return 2*size + headerRoom }

// handle carries out one request. It returns the answer, which is to be sent
// before the next request is handled; with an error it is the one that tells of
// the error.
func (w *worker) handle(m *nats.Msg) (*nats.Msg, error) {
	answer, err := w.answer(context.Background(), m)
	if err != nil && answer == nil {
		answer = w.encoder.Error(err)
	}
	return answer, err
}

func (w *worker) answer(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	// Headers that can't be read are left out by the client library; what they
	// asked for must not be ignored.
	if m.Header == nil && m.Size() > len(m.Subject)+len(m.Reply)+len(m.Data) {
		return nil, fmt.Errorf("%w: the headers are no NATS headers", kv.ErrInvalidArgument)
	}
	switch {
	case w.op.Writes():
		return w.command(ctx, m)
	case w.op == bus.OpKeys:
		return w.keys(ctx, m)
	case w.op == bus.OpScan:
		return w.scan(ctx, m)
	case w.op == bus.OpReplay:
		return w.replay(ctx, m)
	case w.op == bus.OpInfo:
		return w.info(ctx)
	default:
		return w.read(ctx, m)
	}
}

func (w *worker) command(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	cmd, err := w.subjects.DecodeCommand(w.op, m.Subject, m.Header, m.Data)
	if err != nil {
		return nil, err
	}
	if limit := w.busLimit(); int64(len(cmd.Value)) > limit {
		return nil, fmt.Errorf("%w: %d bytes, this bus carries %d", kv.ErrValueTooLarge, len(cmd.Value), limit)
	}
	result, err := w.store.Do(ctx, cmd)
	if err != nil {
		return w.encoder.CommandError(result, err), err
	}
	return w.encoder.Result(w.op, result), nil
}

func (w *worker) read(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	key, opts, err := w.subjects.DecodeRead(w.op, m.Subject, m.Header)
	if err != nil {
		return nil, err
	}
	entry, err := w.store.Get(ctx, key, opts)
	if w.op == bus.OpExists && errors.Is(err, kv.ErrNotFound) {
		return w.encoder.Exists(nil), nil
	}
	if err != nil {
		return nil, err
	}
	switch w.op {
	case bus.OpExists:
		return w.encoder.Exists(&entry), nil
	case bus.OpTTL:
		return w.encoder.TTL(entry, time.Now()), nil
	default:
		return w.encoder.Value(entry), nil
	}
}

func (w *worker) keys(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	q, err := w.subjects.DecodeQuery(w.op, m.Subject, m.Header)
	if err != nil {
		return nil, err
	}
	// Each key but the first takes a byte more, for the line end before it. The
	// room is divided between keys and line ends as for keys of 8 bytes, so
	// that longer ones fill it nearly.
	room := int(w.busLimit())
	if q.Limit == 0 || q.Limit > room/9 {
		q.Limit = room / 9
	}
	q.MaxBytes = room - q.Limit
	page, err := w.store.Scan(ctx, q)
	if err != nil {
		return nil, err
	}
	return w.encoder.Keys(page), nil
}

func (w *worker) scan(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	q, err := w.subjects.DecodeQuery(w.op, m.Subject, m.Header)
	if err != nil {
		return nil, err
	}
	page, err := w.store.Scan(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, entry := range page.Entries {
		if err := w.send(m, w.encoder.ScanEntry(entry)); err != nil {
			return nil, err
		}
	}
	return w.encoder.ScanEnd(page.Revision, page.Cursor), nil
}

func (w *worker) replay(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	q, err := w.subjects.DecodeReplay(m.Subject, m.Header)
	if err != nil {
		return nil, err
	}
	replay, err := w.store.Replay(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, event := range replay.Events {
		if err := w.send(m, w.encoder.ReplayEvent(event)); err != nil {
			return nil, err
		}
	}
	return w.encoder.ReplayEnd(replay.Revision, replay.More), nil
}

func (w *worker) info(ctx context.Context) (*nats.Msg, error) {
	info, err := w.store.Info(ctx)
	if err != nil {
		return nil, err
	}
	effective := w.busLimit()
	if limit := info.Limits.MaxValueSize; limit > 0 {
		effective = min(effective, limit)
	}
	return w.encoder.Info(bus.Info{
		Name:         w.opts.WorkerName,
		Version:      w.opts.Version,
		Prefix:       w.subjects.Prefix(),
		Uptime:       time.Since(w.discovery.started).Round(time.Millisecond).String(),
		MaxValueSize: effective,
		Info:         info,
	})
}

// busLimit is the size of the largest value that every message of the protocol
// can carry on this connection, in bytes.
func (s *Service) busLimit() int64 { return max(0, s.nc.MaxPayload()-headerRoom) }
