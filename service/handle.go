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

// checkHeaders refuses headers that can't be read: the client library leaves
// them out, and what they asked for must not be ignored.
func checkHeaders(m *nats.Msg) error {
	if m.Header == nil && m.Size() > len(m.Subject)+len(m.Reply)+len(m.Data) {
		return fmt.Errorf("%w: the headers are no NATS headers", kv.ErrInvalidArgument)
	}
	return nil
}

// command hands a command to the store; it is answered when the store says so.
func (w *worker) command(r request) {
	cmd, err := w.decodeCommand(r.msg)
	if err != nil {
		w.finishCommand(r, kv.Result{}, err)
		return
	}
	w.submit(context.Background(), cmd, func(result kv.Result, err error) {
		defer w.rescue(r)
		w.finishCommand(r, result, err)
	})
}

func (w *worker) decodeCommand(m *nats.Msg) (kv.Command, error) {
	if err := checkHeaders(m); err != nil {
		return kv.Command{}, err
	}
	cmd, err := w.subjects.DecodeCommand(w.op, m.Subject, m.Header, m.Data)
	if err != nil {
		return kv.Command{}, err
	}
	if limit := w.busLimit(); int64(len(cmd.Value)) > limit {
		return kv.Command{}, fmt.Errorf("%w: %d bytes, this bus carries %d", kv.ErrValueTooLarge, len(cmd.Value), limit)
	}
	return cmd, nil
}

// finishCommand answers a command.
func (l *lane) finishCommand(r request, result kv.Result, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.finish(r, l.answers.CommandError(result, err), err)
	} else {
		l.finish(r, l.answers.Result(l.op, result), nil)
	}
}

// await has a query taken again when the store is fresh enough for it. Meanwhile no
// worker waits with it: without a log they would let the others wait as well, one
// after the other.
func (w *worker) await(r request) {
	opts, err := w.decodeOptions(r.msg)
	if err != nil {
		w.fail(r, err)
		return
	}
	w.fresh(context.Background(), opts, func(err error) {
		defer w.rescue(r)
		if err != nil {
			w.fail(r, err)
			return
		}
		r.progress.fresh = true
		w.queue.putBack(r)
	})
}

// decodeOptions returns how fresh a query wants to be answered.
func (w *worker) decodeOptions(m *nats.Msg) (kv.ReadOptions, error) {
	if err := checkHeaders(m); err != nil {
		return kv.ReadOptions{}, err
	}
	switch w.op {
	case bus.OpKeys, bus.OpScan:
		q, err := w.subjects.DecodeQuery(w.op, m.Subject, m.Header)
		return q.ReadOptions, err
	case bus.OpReplay:
		q, err := w.subjects.DecodeReplay(m.Subject, m.Header)
		return q.ReadOptions, err
	default:
		return bus.DecodeInfoRequest(m.Header)
	}
}

// awaited returns how fresh the answer to a query that asks for opts still has to be
// when its turn has come.
func (w *worker) awaited(opts kv.ReadOptions) kv.ReadOptions {
	if w.fresh != nil {
		opts.Consistency = kv.Eventual
	}
	return opts
}

// query carries out a request that may take long and changes nothing.
func (w *worker) query(r request) {
	answer, err := w.answer(context.Background(), r.msg)
	if err != nil {
		answer = w.encoder.Error(err)
	}
	w.finish(r, answer, err)
}

// answer returns the last, or only, answer to a query.
func (w *worker) answer(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	if err := checkHeaders(m); err != nil {
		return nil, err
	}
	switch w.op {
	case bus.OpKeys:
		return w.keys(ctx, m)
	case bus.OpScan:
		return w.scan(ctx, m)
	case bus.OpReplay:
		return w.replay(ctx, m)
	default:
		return w.info(ctx, m)
	}
}

// read answers a get, an exists or a ttl, when the store can answer it.
func (w *worker) read(r request) {
	var (
		key  string
		opts kv.ReadOptions
	)
	err := checkHeaders(r.msg)
	if err == nil {
		key, opts, err = w.subjects.DecodeRead(w.op, r.msg.Subject, r.msg.Header)
	}
	ctx := context.Background()
	switch {
	case err != nil:
		w.finishRead(r, kv.Entry{}, err)
	case w.fresh != nil:
		w.fresh(ctx, opts, func(err error) {
			defer w.rescue(r)
			var entry kv.Entry
			if err == nil {
				entry, err = w.store.Get(ctx, key, kv.ReadOptions{Consistency: kv.Eventual})
			}
			w.finishRead(r, entry, err)
		})
	default:
		entry, err := w.store.Get(ctx, key, opts)
		w.finishRead(r, entry, err)
	}
}

// finishRead answers a read.
func (l *lane) finishRead(r request, entry kv.Entry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.op == bus.OpExists && errors.Is(err, kv.ErrNotFound):
		l.finish(r, l.answers.Exists(nil), nil)
	case err != nil:
		l.finish(r, l.answers.Error(err), err)
	case l.op == bus.OpExists:
		l.finish(r, l.answers.Exists(&entry), nil)
	case l.op == bus.OpTTL:
		l.finish(r, l.answers.TTL(entry, time.Now()), nil)
	default:
		l.finish(r, l.answers.Value(entry), nil)
	}
}

func (w *worker) keys(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	q, err := w.subjects.DecodeQuery(w.op, m.Subject, m.Header)
	if err != nil {
		return nil, err
	}
	q.ReadOptions = w.awaited(q.ReadOptions)
	// Each key but the first takes a byte more, for the line end before it. The
	// room is divided between keys and line ends as for keys of 8 bytes, so
	// that longer ones fill it nearly. A page has a key at least; one that does not
	// fit fails when it is sent.
	room := int(w.nc.MaxPayload()) - keysHeaderRoom
	most := max(1, room/9)
	if q.Limit == 0 || q.Limit > most {
		q.Limit = most
	}
	q.MaxBytes = max(1, room-q.Limit)
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
	q.ReadOptions = w.awaited(q.ReadOptions)
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
	q.ReadOptions = w.awaited(q.ReadOptions)
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

func (w *worker) info(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	opts, err := bus.DecodeInfoRequest(m.Header)
	if err != nil {
		return nil, err
	}
	ask := w.store.Info
	if w.fresh != nil { // it is fresh enough by now
		ask = w.describe
	}
	info, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	if info.Revision < opts.MinRevision { // a store that does not wait for it
		return nil, fmt.Errorf("%w: the store is at revision %d, before %d", kv.ErrUnavailable, info.Revision, opts.MinRevision)
	}
	var published, lost uint64
	if w.opts.EventCounts != nil {
		published, lost = w.opts.EventCounts()
	}
	return w.encoder.Info(bus.Info{
		Name:            w.opts.WorkerName,
		Version:         w.opts.Version,
		Prefix:          w.subjects.Prefix(),
		Uptime:          time.Since(w.discovery.started).Round(time.Millisecond).String(),
		MaxValueSize:    w.effectiveLimit(info.Limits.MaxValueSize),
		EventsPublished: published,
		EventsLost:      lost,
		Info:            info,
	})
}
