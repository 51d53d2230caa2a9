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
)

// A life is what a watch knows of the store's life.
type life struct {
	known string // its epoch; empty where none was heard of
	// since is when the life that the watch knows was heard of for certain, where
	// it may have ended since then; else the zero time.
	since time.Time
	// lasting says that the store survives its workers, or that it can't be asked.
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
	if l.since.IsZero() && !l.lasting {
		l.since = contact
	}
}

func (l *life) forget() { *l = life{lasting: l.lasting} }

// sameLife asks, where there is doubt, how old the worker is: a store in memory
// is that old. The heartbeats tell it as well, but after the first events.
func (f *follower) sameLife(ctx context.Context) error {
	if f.life.since.IsZero() {
		return nil
	}
	var asked time.Time
	info, err := persist(ctx, f, func(ctx context.Context) (Info, error) {
		ctx, cancel := context.WithTimeout(ctx, infoTimeout)
		defer cancel()
		asked = time.Now()
		m, err := f.nc.RequestMsgWithContext(ctx, f.subjects.EncodeInfo())
		if errors.Is(err, context.DeadlineExceeded) && f.nc.IsConnected() {
			return Info{Info: kv.Info{Durable: true}}, nil // who may not ask gets no answer
		}
		if err != nil {
			return Info{}, err
		}
		return DecodeInfo(m)
	})
	if err != nil {
		return err
	}
	since := f.life.since
	f.life.since, f.life.lasting = time.Time{}, info.Durable
	if info.Durable {
		return nil
	}
	age, err := time.ParseDuration(info.Uptime)
	if err != nil {
		return malformed("uptime %q", clip(info.Uptime))
	}
	if asked.Add(-age).After(since.Add(ageError)) {
		return errNewLife
	}
	return nil
}
