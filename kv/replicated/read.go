package replicated

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

const (
	// fetchRecords and fetchBytes bound what is asked of the log at once.
	fetchRecords = 4096
	fetchBytes   = 4 << 20
	// fetchTimeout bounds the answer.
	fetchTimeout = 2 * time.Second
	// askAgain is how long to wait for a message of it before another server is
	// asked, and then for twice as long: one that has fallen silent may be asked as
	// well as any.
	askAgain = 200 * time.Millisecond

	// timeHeader has the time of a record, RFC 3339 with nanoseconds.
	timeHeader = "Nats-Time-Stamp"
)

var (
	// errNoRecord says that the server that was asked has no later record.
	errNoRecord = errors.New("there is no later record")
	// errMissing says that the server that was asked has later records, and not the
	// next one.
	errMissing = errors.New("the next record is missing")
	// errRemoved says that the log begins after the next record.
	errRemoved = errors.New("the log was removed before this worker had it")
	// errDamaged says that the log has a record that can't be read.
	errDamaged = fmt.Errorf("%w: the log is damaged", kv.ErrUnavailable)
)

// A logRecord is a message of the log.
type logRecord struct {
	sequence uint64
	at       time.Time
	data     []byte
	marked   bool
}

// readLog asks any server of the log for its records from the sequence next on,
// and calls take for those that it gets: at least one, in order, none left out.
// It fails with take's error, with [errNoRecord] if the server has none of them,
// and with [errMissing] if it has later ones only.
func (s *Store) readLog(ctx context.Context, next uint64, take func(logRecord) error) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone already
	query, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{next, fetchRecords, fetchBytes})
	if err != nil {
		return err
	}
	ask := func() error { return s.nc.PublishRequest(directGetSubject(s.opts.Prefix), inbox, query) }
	if err := ask(); err != nil {
		return err
	}
	patience := askAgain
	for first := next; ; {
		m, err := nextMsg(ctx, sub, patience)
		switch {
		case err == nil:
		case next > first:
			return nil // the rest is asked for again
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			if err := ask(); err != nil {
				return err
			}
			patience *= 2
			continue
		default:
			return err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204", "404": // the end of what was asked for, or there is nothing
			if next == first {
				return errNoRecord
			}
			return nil
		default:
			return fmt.Errorf("read the log: JetStream answers %s %s", status, m.Header.Get("Description"))
		}
		record, err := parseRecord(m)
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		switch {
		case record.sequence < next:
			continue // two servers answer
		case record.sequence == next:
		case next == first:
			return errMissing
		default:
			return nil // one of the answer was lost
		}
		if err := take(record); err != nil {
			return err
		}
		next++
	}
}

// nextMsg waits for a message for as long as patience.
func nextMsg(ctx context.Context, sub *nats.Subscription, patience time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// missing tells why a server did not give the record at the sequence next: with
// [errRemoved] and [errDamaged] where asking again would not help.
func (s *Store) missing(ctx context.Context, next uint64) error {
	log, err := s.logState(ctx)
	switch {
	case err != nil:
		return err
	case log.FirstSeq > next:
		return errRemoved
	case log.LastSeq < next:
		return errNoRecord
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, streamName(s.opts.Prefix))
	if err != nil {
		return err
	}
	switch _, err := stream.GetMsg(ctx, next); {
	case err == nil:
		return fmt.Errorf("%w: record %d came late", errNotYet, next)
	case s.Replicas() == 1 && errors.Is(err, jetstream.ErrMsgNotFound):
		return fmt.Errorf("%w: it goes from record %d to %d, and %d can't be read", errDamaged, log.FirstSeq, log.LastSeq, next)
	default:
		return fmt.Errorf("%w: read record %d: %w", errNotYet, next, err) // another server may have it
	}
}

// parseRecord returns the record that a message is by its headers, which are the
// same whether it was sent out or asked for.
func parseRecord(m *nats.Msg) (logRecord, error) {
	sequence, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil || sequence == 0 {
		return logRecord{}, fmt.Errorf("a record has the sequence %q", m.Header.Get(jetstream.SequenceHeader))
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(timeHeader))
	if err != nil {
		return logRecord{}, fmt.Errorf("record %d has the time %q", sequence, m.Header.Get(timeHeader))
	}
	marked := strings.HasSuffix(m.Header.Get(jetstream.SubjectHeader), ".mark")
	return logRecord{sequence, at, m.Data, marked}, nil
}
