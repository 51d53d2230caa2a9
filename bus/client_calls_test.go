package bus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
)

// Of calls that are over nothing is kept, whether they were answered or not.
func TestCallsAreForgotten(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	service := bustest.Connect(t, s)
	if _, err := service.Subscribe("kv.get.answered", func(m *nats.Msg) {
		answer := new(Encoder).Value(kv.Entry{Key: "answered", Value: "v", Revision: 1})
		answer.Subject = m.Reply
		if err := service.PublishMsg(answer); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	asked, err := service.SubscribeSync("kv.get.silent")
	if err == nil {
		err = service.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(bustest.Connect(t, s), ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 10 {
		if entry, err := client.Get(t.Context(), "answered", kv.ReadOptions{}); err != nil || entry.Value != "v" {
			t.Fatalf("%+v, %v", entry, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := client.Get(ctx, "silent", kv.ReadOptions{})
		ended <- err
	}()
	if _, err := asked.NextMsg(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a call that is given up ends with %v", err)
	}
	client.calls.mu.Lock()
	defer client.calls.mu.Unlock()
	if n := len(client.calls.pending); n > 0 {
		t.Errorf("%d calls are kept", n)
	}
}
