package watchbridge

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

const (
	// Cursor is the name of the durable consumer of the log that elects the
	// publisher and remembers how far it came.
	Cursor = "events"

	// publisherGroup is its one priority group.
	publisherGroup = "publisher"
	// pinTime is how long JetStream waits for a silent publisher before it
	// elects another one.
	pinTime = 2 * time.Second
	// pullTime is how long one request for records lasts; a publisher is heard
	// of at least that often.
	pullTime = time.Second
	// publisherCheck is how often a worker looks whether marks are missing, and
	// whether its store is closed.
	publisherCheck = 100 * time.Millisecond
	// markPatience is how long a worker that does not publish waits for a mark
	// after an event, up to twice as long; then there is nobody who publishes.
	markPatience = time.Second
	// markLoss is how long a mark may take to come to the publisher; after that
	// it takes it that another worker is elected.
	markLoss = 2 * time.Second
	// recordPatience is how long a record whose mark came may take to come from the
	// log; after that another worker may do better.
	recordPatience = 10 * time.Second
	// closedPatience is how long the publisher waits for the last mark of a store
	// that is closed.
	closedPatience = time.Second
	// eventBuffer is how many events are copied from the ring at a time.
	eventBuffer = 256
)

// A Log is a store whose state several workers share by a log in JetStream.
// Each has all events; one of them publishes.
type Log interface {
	Source
	// Stream is the name of the log's stream, Replicas the number of servers
	// that hold it, and MarkSubject the subject of those of its records that are
	// marks: one every now and then while there are others.
	Stream() string
	Replicas() int
	MarkSubject() string
	// Mark appends a mark to the log, soon and unless that fails. Marked is the
	// sequence of the last one that this worker has applied.
	Mark()
	Marked() uint64
	// AppliedAfter returns a channel that is closed once this worker has applied
	// a record after the one at sequence.
	AppliedAfter(sequence uint64) <-chan struct{}
	// RevisionAfter returns the store's revision after a record of the log. It
	// waits until this worker has applied it; after the store was closed it
	// fails with [kv.ErrClosed] instead of waiting.
	RevisionAfter(ctx context.Context, sequence uint64) (uint64, error)
	// Applied is the sequence of the last record that this worker has applied.
	Applied() uint64
	// Published is the sequence of the last mark that was acknowledged on the
	// consumer cursor, by any worker: the events up to it are published. Where
	// somebody may have removed that mark from the log, known is false, and the
	// sequence that of the last record that was removed.
	Published(ctx context.Context, cursor string) (sequence uint64, known bool, err error)
	// Closed is closed when the store is.
	Closed() <-chan struct{}
	// Events copies recent events after a revision into buf and returns how many
	// those were. It fails with [kv.ErrCompacted] if the first is no longer held.
	Events(after uint64, buf []kv.Event) (int, error)
	// OldestRevision is that of the oldest event held.
	OldestRevision() uint64
	// History makes the events anew that are no longer held: those of the records
	// after the one at a sequence, of one record after the other and none left
	// out, equal to those that were held. A record's can be iterated until the next
	// one is asked for. It waits for records that are yet to come. An error is the
	// last that comes: [kv.ErrCompacted] if those events can't be had, and
	// [kv.ErrClosed] once the store is closed. They can be had as long as they are
	// not acknowledged on [Cursor].
	History(ctx context.Context, sequence uint64) iter.Seq2[iter.Seq[kv.Event], error]
}

// A mark is a record of the log whose events, and all before them, were handed to
// the connection.
type mark struct {
	msg          jetstream.Msg
	acknowledged bool // of who confirms
}

// publishElected publishes the events of the log as long as this worker is the
// elected one: those after the last mark that any publisher acknowledged.
// JetStream gives the marks to the elected worker alone, by which it knows that
// it is; events it publishes as they come. A mark is acknowledged, and all before
// it with it, when the server has their events.
func (s *session) publishElected(ctx context.Context, log Log) error {
	consumer, err := cursor(ctx, s.nc, log)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(
		jetstream.PullPriorityGroup(publisherGroup),
		jetstream.PullExpiry(pullTime),
		jetstream.PullHeartbeat(pullTime/2),
	)
	if err != nil {
		return fmt.Errorf("the cursor of the events: %w", err)
	}
	marks := make(chan jetstream.Msg, 64) // it goes on to ask, and stays elected, while it is busy
	failed := make(chan error, 1)
	ctx, end := context.WithCancel(ctx)
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for {
			msg, err := messages.Next()
			if err != nil {
				failed <- err
				return
			}
			select {
			case marks <- msg:
			case <-ctx.Done():
				return
			}
		}
	})
	defer receiving.Wait()
	defer messages.Stop()
	defer end()

	p := &publisher{session: s, log: log, buffer: make([]kv.Event, eventBuffer), seen: time.Now()}
	defer p.leaveHistory()
	check := time.NewTicker(publisherCheck)
	defer check.Stop()
	for {
		var applied <-chan struct{}
		if p.elected() {
			applied = log.AppliedAfter(p.sequence)
		}
		select {
		case msg := <-marks:
			err = p.given(ctx, msg)
		case <-applied:
			if err = p.publishRecord(ctx, log.Applied()); err == nil {
				s.confirmLater()
			}
		case <-check.C:
			err = p.check(ctx)
		case err = <-failed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// cursor returns the consumer of the log that all workers share.
func cursor(ctx context.Context, nc *nats.Conn, log Log) (jetstream.Consumer, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, log.Stream(), jetstream.ConsumerConfig{
		Durable:        Cursor,
		Description:    "Elects the worker that publishes events, and remembers how far it came",
		AckPolicy:      jetstream.AckAllPolicy,
		AckWait:        30 * time.Second,
		MaxAckPending:  -1,
		HeadersOnly:    true,
		FilterSubject:  log.MarkSubject(),
		Replicas:       log.Replicas(),
		PriorityPolicy: jetstream.PriorityPolicyPinned,
		PriorityGroups: []string{publisherGroup},
		PinnedTTL:      pinTime,
	})
	if err != nil {
		return nil, fmt.Errorf("the cursor of the events: %w", err)
	}
	return consumer, nil
}
