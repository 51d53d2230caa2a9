package replicated

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/nats-io/nats.go/jetstream"
)

// errNoCursor says that nothing tells how far the events are published.
var errNoCursor = errors.New("the log has no cursor of the events")

// published is [Store.Published] by the cursor of the options; all of the log where
// nobody is to publish events. It fails with [errNoCursor].
func (s *Store) published(ctx context.Context) (uint64, error) {
	if s.opts.Cursor == "" {
		return math.MaxUint64, nil
	}
	sequence, _, err := s.Published(ctx, s.opts.Cursor)
	return sequence, err
}

// Published returns the sequence of a record of the log up to which the events are
// published, as the consumer of that name remembers it.
//
// It is that of the last mark that was acknowledged. JetStream tells of a floor
// below which nothing waits for an acknowledgement: records that are no marks never
// do, and it can be above some whose events are not published. Nor do marks that
// somebody has removed from the log. Where that one may be among them, known is
// false, and the sequence that of the record before the log's first.
func (s *Store) Published(ctx context.Context, cursor string) (sequence uint64, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*apiTimeout)
	defer cancel()
	consumer, err := s.js.Consumer(ctx, streamName(s.opts.Prefix), cursor)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, false, errNoCursor
	}
	if err == nil {
		sequence, known, err = s.lastMark(ctx, consumer.CachedInfo().AckFloor.Stream)
	}
	if err != nil {
		return 0, false, fmt.Errorf("look up how far the events are published: %w", err)
	}
	return sequence, known, nil
}

// lastMark asks for the last mark of the log up to a sequence. Workers leave it there
// when they remove what is before; where there is none, they have never acknowledged
// one, or somebody else has removed it, and found is false.
func (s *Store) lastMark(ctx context.Context, upTo uint64) (sequence uint64, found bool, err error) {
	if upTo == 0 {
		return 0, true, nil
	}
	query, err := json.Marshal(struct {
		Subjects []string `json:"multi_last"`
		UpTo     uint64   `json:"up_to_seq"`
	}{[]string{markSubject(s.opts.Prefix)}, upTo})
	if err != nil {
		return 0, false, err
	}
	m, err := s.nc.RequestWithContext(ctx, directGetSubject(s.opts.Prefix), query)
	if err != nil {
		return 0, false, err
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		record, err := parseRecord(m)
		return record.sequence, true, err
	case "404":
		log, err := s.logState(ctx)
		first := max(log.FirstSeq, 1)
		return min(upTo, first-1), first == 1, err
	default:
		return 0, false, fmt.Errorf("JetStream answers %s %s", status, m.Header.Get("Description"))
	}
}
