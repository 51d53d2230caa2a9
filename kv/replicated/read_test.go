package replicated

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
)

// A server that has fallen silent may be asked for records. Another one is soon, and
// it does no harm when both answer.
func TestReadLogAsksAgain(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	servers := bustest.Connect(t, s)
	const records = 3
	var silent *nats.Msg
	var asked atomic.Int64
	_, err := servers.Subscribe(directGetSubject("kv"), func(m *nats.Msg) {
		asked.Add(1)
		if silent == nil {
			silent = m
			return
		}
		for sequence := 1; sequence <= records; sequence++ {
			for _, request := range []*nats.Msg{silent, m} { // it was only slow
				answer := nats.NewMsg(request.Reply)
				answer.Header.Set(jetstream.StreamHeader, streamName("kv"))
				answer.Header.Set(jetstream.SequenceHeader, strconv.Itoa(sequence))
				answer.Header.Set(timeHeader, time.Now().UTC().Format(time.RFC3339Nano))
				if err := servers.PublishMsg(answer); err != nil {
					t.Error(err)
				}
			}
		}
		end := nats.NewMsg(m.Reply)
		end.Header.Set("Status", "204")
		if err := servers.PublishMsg(end); err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		err = servers.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	store := &Store{nc: bustest.Connect(t, s), opts: Options{Prefix: "kv"}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []uint64
	read := func() error {
		return store.readLog(ctx, 1, func(r logRecord) error { got = append(got, r.sequence); return nil })
	}
	for err := read(); err != nil; err = read() { // as it may be on a busy machine
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || asked.Load() < 2 {
			t.Fatalf("asked %d times, it ends with %v", asked.Load(), err)
		}
	}
	for i, sequence := range got {
		if sequence != uint64(i+1) {
			t.Fatalf("the records %v come", got)
		}
	}
	if len(got) != records {
		t.Errorf("the records %v come; want %d", got, records)
	}
	if n := store.nc.NumSubscriptions(); n > 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}
