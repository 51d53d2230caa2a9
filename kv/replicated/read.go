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
	// askAgain is how long to wait at first for the next message of an answer. Then
	// the server may have fallen silent, and another one is asked, or the way is slow:
	// so it is asked for one record only, as all else is still to come and would be
	// sent twice. The wait doubles each time, up to mostPatience; the next answer is
	// waited for half as long as this one was in the end.
	askAgain     = 200 * time.Millisecond
	mostPatience = 16 * askAgain
	// mostQuestions is how often is asked before what came is all of an answer.
	mostQuestions = 4

	// timeHeader has the time of a record, RFC 3339 with nanoseconds.
	timeHeader = "Nats-Time-Stamp"
	// lastHeader has the sequence of the last record of an answer, at its end.
	lastHeader = "Nats-Last-Sequence"
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
// with [errMissing] if it has later ones only, and with
// [context.DeadlineExceeded] if none answers.
func (s *Store) readLog(ctx context.Context, next uint64, take func(logRecord) error) error {
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone already
	if err := s.askForRecords(inbox, next, fetchRecords); err != nil {
		return err
	}
	patience := max(askAgain, time.Duration(s.patience.Load())/2)
	defer func() { s.patience.Store(int64(patience)) }()
	for first, questions := next, 1; ; {
		m, err := nextMsg(ctx, sub, patience)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			patience = min(2*patience, mostPatience)
			if questions < mostQuestions {
				if err := s.askForRecords(inbox, next, 1); err != nil {
					return err
				}
				questions++
				continue
			}
		}
		if err != nil && next > first {
			return nil // the rest is asked for again
		}
		if err != nil {
			return err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204", "404": // the end of what was asked for, or there is nothing
			if next == first {
				return errNoRecord
			}
			if last, err := strconv.ParseUint(m.Header.Get(lastHeader), 10, 64); err == nil && last < next-1 {
				continue // of an answer that had less
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

// askForRecords asks any server of the log for so many records at most from a
// sequence on, to be sent to inbox.
func (s *Store) askForRecords(inbox string, sequence uint64, records int) error {
	query, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{sequence, records, fetchBytes})
	if err != nil {
		return err
	}
	return s.nc.PublishRequest(directGetSubject(s.opts.Prefix), inbox, query)
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
