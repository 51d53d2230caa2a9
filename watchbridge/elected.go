package watchbridge

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
	// closedCheck is how often a publisher that gets no records looks whether
	// its store is closed.
	closedCheck = 100 * time.Millisecond
	// eventBuffer is how many events are copied from the ring at a time.
	eventBuffer = 256
)

// A Log is a store whose state several workers share by a log in JetStream.
// Each has all events; one of them publishes.
type Log interface {
	Source
	// Stream is the name of the log's stream, Replicas the number of servers
	// that hold it.
	Stream() string
	Replicas() int
	// RevisionAfter returns the store's revision after a record of the log. It
	// waits until this worker has applied it; after the store was closed it
	// fails with [kv.ErrClosed] instead of waiting.
	RevisionAfter(ctx context.Context, sequence uint64) (uint64, error)
	// Applied is the sequence of the last record that this worker has applied.
	Applied() uint64
	// Closed is closed when the store is.
	Closed() <-chan struct{}
	// Events copies recent events after a revision into buf and returns how many
	// it were. It fails with [kv.ErrCompacted] if the first is no longer held.
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

// A mark is a record of the log whose events were handed to the connection.
type mark struct {
	revision uint64
	msg      jetstream.Msg
}

// publishElected publishes the events of the records that JetStream gives to
// this worker: those after the last one that any publisher acknowledged, as long
// as this worker is the elected one. A record is acknowledged, and all before it
// with it, when the server has its events.
func (b *Bridge) publishElected(ctx context.Context, nc *nats.Conn, log Log) error {
	consumer, err := cursor(ctx, nc, log)
	if err != nil {
		return err
	}
	records, err := consumer.Messages(
		jetstream.PullPriorityGroup(publisherGroup),
		jetstream.PullExpiry(pullTime),
		jetstream.PullHeartbeat(pullTime/2),
	)
	if err != nil {
		return fmt.Errorf("the cursor of the events: %w", err)
	}
	defer records.Stop()
	p := &publisher{bridge: b, nc: nc, log: log, consumer: consumer}
	defer p.leaveHistory()
	last := uint64(0) // sequence of the record before, 0 while this worker is not known to be elected
	for {
		msg, err := records.Next(jetstream.NextMaxWait(closedCheck))
		if errors.Is(err, nats.ErrTimeout) {
			select {
			case <-log.Closed():
				if last == 0 || last >= log.Applied() {
					return kv.ErrClosed
				}
			case <-ctx.Done():
				return ctx.Err()
			default:
			}
			continue
		}
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		sequence := meta.Sequence.Stream
		if sequence <= last {
			continue // given again, before it was known to be acknowledged
		}
		if last == 0 || sequence != last+1 {
			if err := p.resume(ctx); err != nil {
				return err
			}
		}
		if err := p.publishRecord(ctx, sequence, msg.Headers().Get(pinHeader)); err != nil {
			return err
		}
		last = sequence
		b.mark.Store(&mark{b.position.Load(), msg})
		b.confirmLater()
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
