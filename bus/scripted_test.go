package bus_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
)

// A scripted service answers requests as a test says.
type scripted struct {
	nc       *nats.Conn
	requests chan *nats.Msg
	sub      *nats.Subscription
}

// serveScript has answer answer all requests, one after the other. It gets the
// number of the request, from 1.
func serveScript(t *testing.T, s *server.Server, answer func(n int, m *nats.Msg, e *bus.Encoder) []*nats.Msg) *scripted {
	t.Helper()
	script := &scripted{nc: bustest.Connect(t, s), requests: make(chan *nats.Msg, 1000)}
	n := 0
	var e bus.Encoder
	sub, err := script.nc.Subscribe("kv.>", func(m *nats.Msg) {
		n++
		script.requests <- m
		for _, reply := range answer(n, m, &e) {
			reply.Subject = m.Reply
			if err := script.nc.PublishMsg(reply); err != nil {
				t.Error(err)
			}
		}
	})
	if err == nil {
		err = script.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	script.sub = sub
	return script
}

// received returns the requests that came so far, once there are so many.
func (s *scripted) received(t *testing.T, atLeast int) []*nats.Msg {
	t.Helper()
	var all []*nats.Msg
	for late := time.After(watchPatience); len(all) < atLeast; {
		select {
		case m := <-s.requests:
			all = append(all, m)
		case <-late:
			t.Fatalf("%d requests came, want %d", len(all), atLeast)
		}
	}
	for {
		select {
		case m := <-s.requests:
			all = append(all, m)
		default:
			return all
		}
	}
}

// clone keeps a message of an encoder, which uses it again.
func clone(m *nats.Msg) *nats.Msg {
	c := nats.NewMsg("")
	c.Data = slices.Clone(m.Data)
	for name, values := range m.Header {
		for _, value := range values {
			c.Header[name] = append(c.Header[name], strings.Clone(value))
		}
	}
	return c
}
