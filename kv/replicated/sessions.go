package replicated

import "time"

const (
	// sessionsKept is the number of workers above which those that were not
	// heard of for sessionIdle are forgotten.
	sessionsKept = 256
	// sessionRecent is how long after its last batch a worker is counted upon.
	sessionRecent = time.Minute
	// sessionIdle is far longer than any worker goes on to append a batch again.
	sessionIdle = 10 * time.Minute
)

// sessions tell for each worker's id how far its batches have come, so that one
// that is appended twice is applied once. They are part of the shared state.
type sessions map[string]session

// A verdict is what is to be done with a batch.
type verdict uint8

const (
	accepted   verdict = iota
	repeated           // it was applied before
	outOfOrder         // the one before it is missing; a worker with one batch under way has none
)

// judge decides about a batch that came at the time now, in Unix nanoseconds,
// and notes it if it is accepted.
func (s sessions) judge(b *batch, now int64) verdict {
	last, known := s[b.Worker]
	settled := max(last.Number, max(b.Base, 1)-1)
	switch {
	case b.Number <= settled:
		return repeated
	case b.Number != settled+1:
		return outOfOrder
	}
	if !known && len(s) >= sessionsKept {
		for worker, session := range s {
			if now-session.Seen > int64(sessionIdle) {
				delete(s, worker)
			}
		}
	}
	s[b.Worker] = session{Worker: b.Worker, Number: b.Number, Seen: now}
	return accepted
}

// place returns how many of the workers that were heard of lately come before
// this one, by their ids: the same order on all of them. Begun is when this one was
// heard of first, in Unix nanoseconds. Those that were not heard of since then don't
// count: they may be its own former lives, one more with each restart.
func (s sessions) place(worker string, begun int64) int {
	newest := int64(0)
	for _, session := range s {
		newest = max(newest, session.Seen)
	}
	from := max(begun, newest-int64(sessionRecent))
	before := 0
	for _, session := range s {
		if session.Worker < worker && session.Seen >= from {
			before++
		}
	}
	return before
}
