package bus

import (
	"context"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// Scan implements [kv.Store]. The whole answer is that to one request, so that it
// is of one revision, and is held in memory; a large store is read in pages, as
// [kv.Handle.Entries] does. It fails with [kv.ErrValueTooLarge] for more than
// MaxAnswerBytes.
func (c *Client) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	page, err := c.scan(ctx, q, false)
	for err == nil && q.MaxBytes > 0 {
		n := fitting(len(page.Entries), q.MaxBytes, func(i int) int { return len(page.Entries[i].Key) + len(page.Entries[i].Value) })
		if n == len(page.Entries) {
			break
		}
		// The cursor after the last entry that fits is the service's to make. What
		// it answers may have changed, and need less entries still.
		q.Limit = n
		page, err = c.scan(ctx, q, false)
	}
	if err != nil {
		return kv.Page{}, err
	}
	return page, nil
}

// fitting returns how many of n items have not more than so many bytes together;
// it is at least one, if there is any.
func fitting(n, maxBytes int, size func(i int) int) int {
	sum := 0
	for i := range n {
		if sum += size(i); sum > maxBytes && i > 0 {
			return i
		}
	}
	return n
}

func (c *Client) scan(ctx context.Context, q kv.Query, once bool) (kv.Page, error) {
	m, err := c.subjects.EncodeScan(q)
	if err != nil {
		return kv.Page{}, err
	}
	var page kv.Page
	err = c.call(ctx, &request{
		msg:      m,
		harmless: true,
		once:     once,
		begin:    func() { page = kv.Page{} },
		receive: func(m *nats.Msg) (bool, error) {
			if q.KeysOnly {
				m.Data = nil // of a service that knows no scan without values
			}
			return AddToPage(&page, m)
		},
	})
	return page, err
}

// Replay implements [kv.Store]. The whole answer is that to one request, and is
// held in memory. It fails with [kv.ErrValueTooLarge] for more than
// MaxAnswerBytes.
func (c *Client) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	replay, err := c.replay(ctx, q, false)
	if err != nil {
		return kv.Replay{}, err
	}
	if events := replay.Events; q.MaxBytes > 0 {
		n := fitting(len(events), q.MaxBytes, func(i int) int { return len(events[i].Key) + len(events[i].Value) })
		if n < len(events) {
			replay = kv.Replay{Events: events[:n:n], Revision: events[n-1].Revision, More: true}
		}
	}
	return replay, nil
}

func (c *Client) replay(ctx context.Context, q kv.ReplayQuery, once bool) (kv.Replay, error) {
	m, err := c.subjects.EncodeReplay(q)
	if err != nil {
		return kv.Replay{}, err
	}
	var replay kv.Replay
	err = c.call(ctx, &request{
		msg:      m,
		harmless: true,
		once:     once,
		begin:    func() { replay = kv.Replay{} },
		receive:  func(m *nats.Msg) (bool, error) { return AddToReplay(&replay, m) },
	})
	return replay, err
}
