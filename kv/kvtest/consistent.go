package kvtest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kvbus/kv"
)

// A sighting is a page that was read while writes went on.
type sighting struct {
	query kv.Query
	after string // the last key of the page before
	page  kv.Page
}

// checkScanOneRevision compares whole scans that were taken during writes with
// what the events say was there at their revisions: one that shows the state
// of two revisions can't hide.
func checkScanOneRevision(e *env) {
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: 4096})
	s.compareWithHistory(func(seen func(sighting)) {
		for _, q := range []kv.Query{{}, {Prefix: "rotate.1"}, {Filter: s.e.filter("*.*.*.x")}} {
			page, err := s.Store().Scan(s.ctx, q)
			if err != nil {
				e.Errorf("scan: %v", err)
				return
			}
			seen(sighting{q, "", page})
		}
	})
}

// checkPagesOneRevision is the same for scans page by page, where each page may
// be of a later revision than the one before.
func checkPagesOneRevision(e *env) {
	s := e.openWith(Options{Limits: kv.DefaultLimits(), ReplayEvents: 4096})
	s.compareWithHistory(func(seen func(sighting)) {
		q, last := kv.Query{Limit: 17}, ""
		for {
			page, err := s.Store().Scan(s.ctx, q)
			if err != nil {
				e.Errorf("scan: %v", err)
				return
			}
			seen(sighting{q, last, page})
			if q.Cursor = page.Cursor; q.Cursor == "" {
				return
			}
			last = page.Entries[len(page.Entries)-1].Key
		}
	})
}

// compareWithHistory runs writers that rotate tokens through keys, and read as
// often as it can beside them; then it checks what read has seen.
func (s *subject) compareWithHistory(read func(seen func(sighting))) {
	const writers, rounds, places = 2, 200, 40
	// Each writer waits for a read to begin so often that the fastest store is read
	// while it is written to.
	const atOnce = 10
	turns := make(chan struct{})
	for w := range writers {
		for i := range places {
			s.set(place(w, i), "")
		}
	}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			h := s.Handle
			for i := range rounds {
				if i%atOnce == 0 {
					select {
					case <-turns:
					case <-s.ctx.Done():
						s.e.Errorf("writer %d: %v", w, s.ctx.Err())
						return
					}
				}
				// The token is in the next place before it leaves this one.
				_, err := h.Set(s.ctx, place(w, (i+7)%places), fmt.Sprint("token ", i))
				if err == nil && i%3 == 0 {
					_, err = h.Delete(s.ctx, place(w, i%places))
				} else if err == nil {
					_, err = h.Set(s.ctx, place(w, i%places), "")
				}
				if err != nil {
					s.e.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	var sightings []sighting
	for round, running := 0, true; running; round++ {
		if round > 100 {
			time.Sleep(pause) // a slow store gives time enough; more pages show no more
		}
		select {
		case <-done:
			running = false
		default:
		}
		for range writers {
			select {
			case turns <- struct{}{}:
			default: // it writes
			}
		}
		read(func(g sighting) { sightings = append(sightings, g) })
		if s.e.Failed() {
			break
		}
	}
	close(turns) // nobody waits for a read any more
	<-done
	s.checkSightings(sightings)
}

func place(writer, i int) string {
	return fmt.Sprintf("rotate.%d.%02d.%s", i%3, writer*100+i, "xy"[i%2:i%2+1])
}

// checkSightings goes through the history once, and through the pages in the
// order of their revisions.
func (s *subject) checkSightings(sightings []sighting) {
	s.e.Helper()
	replay := s.replay(kv.ReplayQuery{})
	slices.SortStableFunc(sightings, func(a, b sighting) int { return cmp.Compare(a.page.Revision, b.page.Revision) })
	state := map[string]kv.Entry{}
	events := replay.Events
	for _, g := range sightings {
		for len(events) > 0 && events[0].Revision <= g.page.Revision {
			follow(state, events[0])
			events = events[1:]
		}
		var want []kv.Entry
		more := false
		for _, key := range slices.Sorted(maps.Keys(state)) {
			if key <= g.after && g.after != "" || !strings.HasPrefix(key, g.query.Prefix) || !g.query.Filter.Match(key) {
				continue
			}
			if more = g.query.Limit > 0 && len(want) == g.query.Limit; more {
				break
			}
			want = append(want, state[key])
		}
		if !slices.Equal(g.page.Entries, want) || (g.page.Cursor != "") != more {
			s.e.Fatalf("a scan of revision %d shows what was not there then:\n got %+v\nwant %+v", g.page.Revision, g.page.Entries, want)
		}
	}
}

// follow brings a state from one revision to the next.
func follow(state map[string]kv.Entry, event kv.Event) {
	switch event.Kind {
	case kv.EventSet:
		state[event.Key] = kv.Entry{Key: event.Key, Value: event.Value, Revision: event.Revision, ExpiresAt: event.ExpiresAt}
	case kv.EventTouch:
		entry := state[event.Key]
		entry.Revision, entry.ExpiresAt = event.Revision, event.ExpiresAt
		state[event.Key] = entry
	default:
		delete(state, event.Key)
	}
}
