package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kvbus/kv"
)

// errNewLife is what a watch learns of a store in memory that was restarted: its
// revisions begin anew, and those that the watch knows mean something else.
var errNewLife = fmt.Errorf("%w: the store has begun anew", kv.ErrCompacted)

const (
	// infoTimeout bounds the question for the age of a worker.
	infoTimeout = 5 * time.Second
	// ageError is how much the age that a worker tells may be off. No worker is
	// there again that soon.
	ageError = time.Millisecond
	// ageQuestions is how often a watch asks for an age that was on its way for too
	// long to tell anything.
	ageQuestions = 10
)

// A life is what a watch knows of the store's life.
type life struct {
	known string // its epoch; empty where none was heard of
	// since is when the life that the watch knows was heard of for certain, where
	// it may have ended since then; else the zero time.
	since time.Time
	// lasting says that the store survives its workers, or that it may not be asked.
	lasting bool
}

// epoch takes the epoch of a heartbeat. The first one may be of a life that
// began after the watch did, at start.
func (l *life) epoch(name string, start time.Time) error {
	switch {
	case name == "":
	case l.known == "":
		l.known = name
		l.doubt(start)
	case l.known != name:
		return errNewLife
	}
	return nil
}

// doubt says that the store may have begun anew after contact.
func (l *life) doubt(contact time.Time) {
	if !l.lasting && (l.since.IsZero() || contact.Before(l.since)) {
		l.since = contact
	}
}

func (l *life) forget() { *l = life{lasting: l.lasting} }

// sameLife asks, where there is doubt, how old the worker is: a store in memory
// is that old. The heartbeats tell it as well, but after the first events.
//
// The worker began between the times of question and of answer, both less its
// age. A question that takes long leaves too much room between them, and is asked
// again; what stays in doubt is taken for a new life, which loses nothing.
func (f *follower) sameLife(ctx context.Context) error {
	for range ageQuestions {
		since := f.life.since
		if since.IsZero() {
			return nil
		}
		earliest, latest, err := f.workerBegan(ctx)
		if err != nil {
			return err
		}
		switch {
		case f.life.lasting, !latest.After(since.Add(ageError)):
			f.life.since = time.Time{}
			return nil
		case earliest.After(since.Add(ageError)):
			return errNewLife
		}
	}
	return errNewLife
}

// workerBegan asks when the worker began. It learns, too, whether the store lasts.
func (f *follower) workerBegan(ctx context.Context) (earliest, latest time.Time, err error) {
	info, asked, err := f.info(ctx)
	answered := time.Now()
	if errors.Is(err, ErrForbidden) {
		f.life.lasting = true
		return earliest, latest, nil
	}
	if err != nil {
		return earliest, latest, err
	}
	f.life.lasting = info.Durable
	if info.Durable {
		return earliest, latest, nil
	}
	age, err := time.ParseDuration(info.Uptime)
	if err != nil {
		return earliest, latest, malformed("uptime %q", clip(info.Uptime))
	}
	return asked.Add(-age), answered.Add(-age), nil
}

// info asks for the service until it gets an answer, and returns when it asked for
// that one.
func (f *follower) info(ctx context.Context) (info Info, asked time.Time, err error) {
	info, err = persist(ctx, f, func(ctx context.Context) (Info, error) {
		ctx, cancel := context.WithTimeout(ctx, infoTimeout)
		defer cancel()
		asked = time.Now()
		return f.store.Info(ctx)
	})
	return info, asked, err
}
