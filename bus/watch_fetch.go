package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"kvbus/kv"
)

// fetch gives the events that the store holds after a revision and that were not
// given yet. It tries until the service answers.
func (f *follower) fetch(ctx context.Context, from uint64) error {
	return f.fetchUpTo(ctx, from, math.MaxUint64)
}

// fetchUpTo is fetch, up to a revision or somewhat further.
func (f *follower) fetchUpTo(ctx context.Context, from, to uint64) error {
	q := kv.ReplayQuery{
		After:       from,
		Prefix:      f.literal(),
		Filter:      f.opts.Filter,
		ReadOptions: kv.ReadOptions{Consistency: kv.Linearizable},
	}
	before := f.reached
	f.looked = from
	for more := true; more; {
		replay, err := askPage(ctx, f, func(ctx context.Context, limit int) (kv.Replay, error) {
			q.Limit = limit
			return f.store.Replay(ctx, q)
		})
		if err != nil {
			return err
		}
		// The question comes after the answer: it covers the life that gave it.
		if err := f.sameLife(ctx); err != nil {
			return err
		}
		size := 0
		for i := range replay.Events {
			size += len(replay.Events[i].Key) + len(replay.Events[i].Value)
			if err := f.fetched(&replay.Events[i]); err != nil {
				return err
			}
		}
		f.batch.measure(len(replay.Events), size)
		more = replay.More
		if replay.Revision < q.After || more && replay.Revision == q.After {
			return fmt.Errorf("%w: a replay after %d ends at %d", kv.ErrInternal, q.After, replay.Revision)
		}
		q.After = replay.Revision
		more = more && q.After < to
	}
	if q.After < before {
		return errNewLife
	}
	f.reached, f.newest = q.After, max(f.newest, q.After)
	if from <= f.audited {
		f.audited = f.reached
	}
	if from <= f.proven {
		f.proven = f.reached
		f.seen.forget(f.proven)
	}
	if f.started {
		f.lives()
	}
	return nil
}

// fetched looks at an event of a replay.
func (f *follower) fetched(event *kv.Event) error {
	switch revision := event.Revision; {
	case revision <= f.proven || f.seen.has(revision):
		return nil
	case f.pages.show(event):
		f.givenAt = event.Time
		return nil
	case revision <= f.given:
		return f.outOfOrder(revision)
	}
	if f.opts.KeysOnly {
		event.Value = ""
	}
	return f.giveEvent(event)
}

// readState gives the current state, page by page. Pages may be of different
// revisions; what happened between the first and the last is given as events, and
// then the state is of one revision.
func (f *follower) readState(ctx context.Context) error {
	q := kv.Query{
		Prefix:      f.literal(),
		Filter:      f.opts.Filter,
		KeysOnly:    f.opts.KeysOnly,
		ReadOptions: kv.ReadOptions{Consistency: kv.Linearizable},
	}
	var pages statePages
	for more := true; more; {
		page, err := askPage(ctx, f, func(ctx context.Context, limit int) (kv.Page, error) {
			q.Limit = limit
			return f.store.Scan(ctx, q)
		})
		if err != nil {
			return err
		}
		if n := len(pages); n == 0 {
			f.life.since, f.begun = time.Time{}, time.Now() // whatever life that is, the watch is about it
		} else if page.Revision < pages[n-1].revision {
			return errNewLife
		}
		size, last := 0, ""
		for _, entry := range page.Entries {
			size += len(entry.Key) + len(entry.Value)
			last = entry.Key
			if err := f.give(Change{Kind: ChangeState, Entry: entry, Revision: entry.Revision}); err != nil {
				return err
			}
		}
		f.batch.measure(len(page.Entries), size)
		pages = append(pages, statePage{last, page.Revision})
		q.Cursor = page.Cursor
		more = q.Cursor != ""
	}
	f.startAfter(pages[0].revision)
	if newest := pages[len(pages)-1].revision; newest > f.proven {
		f.pages = pages
		// What happens after that comes by itself; a busy store may be faster than
		// small pages.
		err := f.fetchUpTo(ctx, f.proven, newest)
		f.pages = nil
		if err != nil {
			return err
		}
	}
	if err := f.give(Change{Kind: ChangeReady, Revision: f.reached}); err != nil {
		return err
	}
	f.lives()
	return nil
}

// statePages say which part of the keys was read at which revision, in the order
// of keys.
type statePages []statePage

type statePage struct {
	last     string // key on the page
	revision uint64
}

// show reports whether the page that has the event's key shows the event already.
func (p statePages) show(event *kv.Event) bool {
	if len(p) == 0 {
		return false
	}
	// Keys after the last one of all are of the last page.
	i, _ := slices.BinarySearchFunc(p[:len(p)-1], event.Key, func(page statePage, key string) int { return cmp.Compare(page.last, key) })
	return event.Revision <= p[i].revision
}

const (
	// pageBytes is about how large a page becomes.
	pageBytes = 4 << 20
	// firstPage is the number of items in the first one, of which nothing is known,
	// and pageGrowth how many times as many as in the last one the next may have:
	// small items tell little of those after them.
	firstPage  = 16
	pageGrowth = 4
)

// pageSize finds how many items make a page that no connection chokes on.
type pageSize struct{ items, average int }

func (p *pageSize) limit(most int) int {
	if p.items == 0 {
		return min(most, firstPage)
	}
	return min(most, max(1, pageBytes/p.average), max(firstPage, pageGrowth*p.items))
}

func (p *pageSize) measure(items, size int) {
	if items > 0 {
		p.items, p.average = items, size/items+1
	}
}

// errAlone is of an item that has no room in an answer of its own.
var errAlone = errors.New("a page of one item")

// askPage asks for a page until it gets one.
func askPage[T any](ctx context.Context, f *follower, ask func(ctx context.Context, limit int) (T, error)) (T, error) {
	limit := f.batch.limit(f.opts.PageSize)
	return persist(ctx, f, func(ctx context.Context) (T, error) {
		for {
			page, err := ask(ctx, limit)
			alone := limit == 1
			limit = max(1, limit/2) // one that fails may be too large
			switch {
			case !errors.Is(err, kv.ErrValueTooLarge):
				return page, err
			case alone:
				return page, fmt.Errorf("%w: %w", errAlone, err)
			}
		}
	})
}

// persist asks until it gets an answer, or an error that stays.
func persist[T any](ctx context.Context, f *follower, ask func(ctx context.Context) (T, error)) (answer T, err error) {
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		reconnects := f.nc.Stats().Reconnects
		asked := time.Now()
		attempt, cancel := context.WithTimeout(ctx, fetchTimeout)
		answer, err = ask(attempt)
		cancel()
		if err == nil && f.nc.Stats().Reconnects != reconnects {
			continue // messages of the answer may be lost
		}
		if err == nil {
			f.met(asked)
			return answer, nil
		}
		if ended := f.ended(ctx); ended != nil {
			return answer, ended
		}
		if stays(err) {
			return answer, err
		}
		f.life.doubt(f.contact)
		if !f.stale {
			f.stale = true
			f.notify(NoticeStale, err)
		}
		if err := f.rest(ctx, vary(backoff)); err != nil {
			return answer, err
		}
	}
}

// stays reports whether asking again would bring the same error.
func stays(err error) bool {
	for _, lasting := range []error{kv.ErrCompacted, kv.ErrClosed, kv.ErrInvalidKey, kv.ErrInvalidArgument, ErrForbidden, errors.ErrUnsupported, errAlone} {
		if errors.Is(err, lasting) {
			return true
		}
	}
	return false
}

// rest waits for a time, or until the connection comes back.
func (f *follower) rest(ctx context.Context, wait time.Duration) error {
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		if err := f.pause(ctx, left); err != nil {
			return err
		}
		if err := f.ended(ctx); err != nil {
			return err
		}
		if f.nc.Stats().Reconnects != f.reconnects {
			return nil
		}
	}
}
