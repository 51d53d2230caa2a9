package bus

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// A WireClient is the least that a watch needs.
type WireClient struct {
	nc   *nats.Conn
	s    Subjects
	hub  watchHub
	done chan struct{}
	once sync.Once
}

func NewWireClient(nc *nats.Conn) (*WireClient, error) {
	s, err := NewSubjects("kv")
	return &WireClient{nc: nc, s: s, done: make(chan struct{})}, err
}
func (w *WireClient) Close() error { w.once.Do(func() { close(w.done) }); return nil }
func (w *WireClient) stream(ctx context.Context, m *nats.Msg, add func(m *nats.Msg) (bool, error)) error {
	m.Reply = nats.NewInbox()
	sub, err := w.nc.SubscribeSync(m.Reply)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err := w.nc.PublishMsg(m); err != nil {
		return err
	}
	for {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		r, err := sub.NextMsgWithContext(ctx)
		cancel()
		if err != nil {
			return err
		}
		if done, err := add(r); done || err != nil {
			return err
		}
	}
}
func (w *WireClient) Scan(ctx context.Context, q kv.Query) (page kv.Page, err error) {
	m, err := w.s.EncodeQuery(q)
	if err != nil {
		return page, err
	}
	if q.KeysOnly {
		r, err := w.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return page, err
		}
		return DecodeKeys(r)
	}
	err = w.stream(ctx, m, func(m *nats.Msg) (bool, error) { return AddToPage(&page, m) })
	return page, err
}
func (w *WireClient) Replay(ctx context.Context, q kv.ReplayQuery) (page kv.Replay, err error) {
	m, err := w.s.EncodeReplay(q)
	if err != nil {
		return page, err
	}
	err = w.stream(ctx, m, func(m *nats.Msg) (bool, error) { return AddToReplay(&page, m) })
	return page, err
}
func (w *WireClient) Follow(ctx context.Context, opts FollowOptions) iter.Seq2[Change, error] {
	return follow(ctx, watchService{store: w, nc: w.nc, subjects: w.s, hub: &w.hub, closed: w.done}, opts)
}
