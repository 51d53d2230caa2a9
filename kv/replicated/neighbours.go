package replicated

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

// neighbourWait is how long other workers have to say which log is theirs. Where
// nobody listens the server says so at once.
const neighbourWait = 150 * time.Millisecond

// neighbourSubject returns the subject on which each worker of a prefix says which log
// it has. It is in the log of no prefix.
func neighbourSubject(prefix string) string { return "$KVBUS." + prefix + ".worker" }

// logName is what a log is known by: when its stream was made, which all servers that
// hold it tell alike.
func logName(stream jetstream.Stream) string {
	return stream.CachedInfo().Created.UTC().Format(time.RFC3339Nano)
}

// errTwoLogs says that a worker of the same prefix has another log: two JetStreams on
// one NATS, as those of a hub and of a leaf node may be, both take what is written to
// either.
var errTwoLogs = fmt.Errorf("%w: two logs under one prefix would take each other's records", kv.ErrInvalidArgument)

// checkNeighbours fails with [errTwoLogs] where a worker of the same prefix has another
// log than the one that is here, or none is.
func (s *Store) checkNeighbours(ctx context.Context) error {
	name, own := "", "none"
	switch stream, err := s.js.Stream(ctx, streamName(s.opts.Prefix)); {
	case err == nil:
		name = logName(stream)
		own = "one of " + name
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	}
	inbox := s.nc.NewInbox()
	answers, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only if the connection is gone already
	if err := s.nc.PublishRequest(neighbourSubject(s.opts.Prefix), inbox, nil); err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, neighbourWait)
	defer cancel()
	for {
		m, err := answers.NextMsgWithContext(asking)
		switch {
		case errors.Is(err, nats.ErrNoResponders), err != nil && asking.Err() != nil && ctx.Err() == nil:
			return nil
		case err != nil:
			return err
		}
		if other := string(m.Data); other != name {
			return fmt.Errorf("%w: a worker on this NATS serves %q from a log of %s, and the JetStream of this one has %s; connect it to that JetStream (--nats-url), or give it another prefix (--prefix)",
				errTwoLogs, s.opts.Prefix, other, own)
		}
	}
}

// answerNeighbours tells whoever asks which log this worker has.
func (s *Store) answerNeighbours() (err error) {
	s.neighbours, err = s.nc.Subscribe(neighbourSubject(s.opts.Prefix), func(m *nats.Msg) {
		_ = m.Respond([]byte(s.log)) // the connection reports its own failures
	})
	return err
}
