package service_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

// A cutOff store can't reach those that it would have to ask.
type cutOff struct{ kv.Store }

func (cutOff) Info(context.Context) (kv.Info, error) { return kv.Info{}, kv.ErrUnavailable }

func (cutOff) Describe() (kv.Info, error) {
	return kv.Info{Store: "replicated", Clustered: true, Limits: kv.DefaultLimits()}, nil
}

// A service starts on a store that knows itself, and answers what it can.
func TestStartWithoutTheOthers(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := cutOff{memory.New(memory.Options{})}
	defer store.Close()
	svc, err := service.Start(t.Context(), bustest.Connect(t, s, nats.InProcessServer(s)), store, service.Options{ClaimWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got := svc.Store().Store; got != "replicated" {
		t.Errorf("the store is %q", got)
	}
	nc := bustest.Connect(t, s)
	expect(t, nc, "kv.info", "", "!unavailable")
	expect(t, nc, "kv.set.color", "blue", "1")
}
