package service_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

func TestOverload(t *testing.T) {
	tests := []struct {
		name string
		opts service.Options
		body string
	}{
		{"by number", service.Options{MaxPending: 4}, "x"},
		{"by bytes", service.Options{MaxPendingBytes: 4500}, strings.Repeat("x", 1000)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := bustest.StartServer(t, server.Options{})
			svc, g := startGated(t, s, test.opts)
			nc := bustest.Connect(t, s)
			send := func(key string) *nats.Subscription {
				inbox := nc.NewRespInbox()
				sub, err := nc.SubscribeSync(inbox)
				if err != nil {
					t.Fatal(err)
				}
				if err := nc.PublishRequest("kv.set."+key, inbox, []byte(test.body)); err != nil {
					t.Fatal(err)
				}
				return sub
			}
			first := send("first")
			<-g.entered // one is under way, the queue is empty
			var waiting []*nats.Subscription
			for i := range 3 {
				waiting = append(waiting, send(fmt.Sprint("waits", i)))
			}
			refused := send("refused")
			m, err := refused.NextMsg(patience)
			if err != nil {
				t.Fatalf("the refusal waits for the queue: %v", err)
			}
			if got := m.Header.Get(bus.HeaderError); got != "overloaded" {
				t.Errorf("past the bound the answer is %q", got)
			}
			expect(t, nc, "kv.get.refused", "", "!not_found") // other operations go on
			close(g.gate)
			for _, sub := range append(waiting, first) {
				if m, err := sub.NextMsg(patience); err != nil || m.Header.Get(bus.HeaderError) != "" {
					t.Errorf("a request that was taken is answered by %v, %v", m, err)
				}
			}
			set := endpoint(t, svc.Stats(), "set")
			if set.NumRequests != 5 || set.NumErrors != 1 || !strings.Contains(set.LastError, "overloaded") {
				t.Errorf("the statistics are %+v", set)
			}
			if got := string(set.Data); got != `{"num_overloaded":1}` {
				t.Errorf("beside the statistics it tells %s", got)
			}
		})
	}
}

// Commands of one connection on one operation take effect as they were sent.
func TestOrder(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	events := store.Watch(ctx, kv.WatchOptions{})
	const writes = 2000
	for i := range writes {
		if err := nc.Publish("kv.set.k", []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	next := 0
	for event, err := range events {
		if err != nil || event.Value != strconv.Itoa(next) {
			t.Fatalf("write %d is %q, %v", next, event.Value, err)
		}
		if next++; next == writes {
			return
		}
	}
}
