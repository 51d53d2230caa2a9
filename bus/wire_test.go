package bus_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
)

// connect starts a NATS server for the test and connects to it over TCP.
func connect(t *testing.T) *nats.Conn {
	t.Helper()
	return bustest.Connect(t, bustest.StartServer(t, server.Options{}))
}

// trip sends a message over the wire and returns it as it arrives.
func trip(t *testing.T, nc *nats.Conn, sub *nats.Subscription, m *nats.Msg) *nats.Msg {
	t.Helper()
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	back, err := sub.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func subscribe(t *testing.T, nc *nats.Conn) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func subjects(t *testing.T) bus.Subjects {
	t.Helper()
	s, err := bus.NewSubjects("")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRequestsSurviveTheWire(t *testing.T) {
	nc := connect(t)
	sub := subscribe(t, nc)
	s := subjects(t)
	for _, expected := range []string{
		"", " ", "\t", "plain", "a: b", "inner  spaces", " leading", "trailing ", "trailing\t", "two\nlines", "cr\r", "\r\n",
		"größe", "五", "\u00a0", "\x00", "\x7f", "\xff\xfe", strings.Repeat("long ", 5000),
	} {
		for _, value := range []string{"", "new", "\x00\r\n\xff"} {
			cmd := kv.Command{Op: kv.OpCompareAndSwap, Key: "größe..五", Value: value, Expect: kv.IfValue(expected), TTL: math.MaxInt64}
			m, err := s.EncodeCommand(cmd)
			if err != nil {
				t.Fatal(err)
			}
			got := trip(t, nc, sub, m)
			if back, err := s.DecodeCommand(bus.OpCompareAndSwap, got.Subject, got.Header, got.Data); err != nil || back != cmd {
				t.Errorf("%+v arrived as %+v, %v", cmd, back, err)
			}
		}
	}
	filter, err := kv.ParseFilter("größe.*.=.>")
	if err != nil {
		t.Fatal(err)
	}
	q := kv.Query{Prefix: "größe.", Filter: filter, Cursor: "größe.五\r\n ", Limit: 7}
	m, err := s.EncodeQuery(q)
	if err != nil {
		t.Fatal(err)
	}
	got := trip(t, nc, sub, m)
	if back, err := s.DecodeQuery(bus.OpScan, got.Subject, got.Header); err != nil || back != q {
		t.Errorf("%+v arrived as %+v, %v", q, back, err)
	}
}

// TestLongestKey makes sure that no protocol line is too long.
func TestLongestKey(t *testing.T) {
	nc := connect(t)
	sub := subscribe(t, nc)
	s, err := bus.NewSubjects(strings.Repeat("p", bus.MaxPrefixLength))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{strings.Repeat("k", kv.MaxKeyLength), strings.Repeat(".", kv.MaxKeyLength), strings.Repeat("五", kv.MaxKeyLength/3)} {
		m, err := s.EncodeRead(bus.OpExists, key, kv.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m.Reply = nats.NewInbox()
		got := trip(t, nc, sub, m)
		if back, _, err := s.DecodeRead(bus.OpExists, got.Subject, got.Header); err != nil || back != key {
			t.Errorf("key %.20q… arrived as %.20q, %v", key, back, err)
		}
	}
}

// TestHandmadeExpectation shows what arrives of a KV-Expected that a client
// wrote itself: the reason why PROTOCOL.md asks for KV-Expected-Length.
func TestHandmadeExpectation(t *testing.T) {
	nc := connect(t)
	sub := subscribe(t, nc)
	s := subjects(t)
	for sent, arrives := range map[string]string{
		"": "", "plain": "plain", "größe": "größe", "a b": "a b", " a ": "a", "a\r\nb": "a  b", "a\n": "a",
	} {
		got := trip(t, nc, sub, &nats.Msg{Subject: "kv.cas.a", Header: nats.Header{"kv-expected": {sent}}})
		cmd, err := s.DecodeCommand(bus.OpCompareAndSwap, got.Subject, got.Header, got.Data)
		if err != nil || cmd.Expect != kv.IfValue(arrives) {
			t.Errorf("%q arrives as %+v, %v", sent, cmd.Expect, err)
		}
	}
}

// TestRepliesSurviveTheWire reuses one encoder, as a service does.
func TestRepliesSurviveTheWire(t *testing.T) {
	nc := connect(t)
	sub := subscribe(t, nc)
	s := subjects(t)
	at := time.Date(2031, 2, 3, 4, 5, 6, 700, time.UTC)
	var e bus.Encoder
	send := func(m *nats.Msg) *nats.Msg {
		if m.Subject == "" {
			m.Subject = "reply"
		}
		return trip(t, nc, sub, m)
	}

	entry := kv.Entry{Key: "größe.五", Value: "\x00\r\n\xff", Revision: 7, ExpiresAt: at}
	want := kv.Page{Entries: []kv.Entry{entry}, Revision: 9, Cursor: " größe.五\r\n"}
	var page kv.Page
	for i, m := range []func() *nats.Msg{
		func() *nats.Msg { return e.ScanEntry(entry) },
		func() *nats.Msg { return e.ScanEnd(want.Revision, want.Cursor) },
	} {
		if done, err := bus.AddToPage(&page, send(m())); err != nil || done != (i == 1) {
			t.Fatalf("message %d: %v, %v", i, done, err)
		}
	}
	if !reflect.DeepEqual(page, want) {
		t.Errorf("%+v arrived as %+v", want, page)
	}

	ev := kv.Event{
		Kind: kv.EventSet, Key: "größe..五", Value: "v", Revision: 7, Time: at, ExpiresAt: at,
		Trace: kv.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", State: "a=1"},
	}
	if back, err := s.DecodeEvent(send(e.Event(s, ev))); err != nil || !reflect.DeepEqual(back, ev) {
		t.Errorf("%+v arrived as %+v, %v", ev, back, err)
	}

	result := kv.Result{Applied: true, Revision: 8, ExpiresAt: at}
	if back, err := bus.DecodeResult(bus.OpSet, send(e.Result(bus.OpSet, result))); err != nil || back != result {
		t.Errorf("%+v arrived as %+v, %v", result, back, err)
	}

	err := fmt.Errorf("%w: %q of größe,\r\nKV-Revision: 1", kv.ErrNotFound, "五")
	got := send(e.Error(err))
	if back := bus.DecodeError(got.Header); !errors.Is(back, kv.ErrNotFound) || len(got.Header) != 3 {
		t.Errorf("%v arrived as %v, %v", err, back, got.Header)
	}
}

func TestNobodyListens(t *testing.T) {
	nc := connect(t)
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	m, err := subjects(t).EncodeInfo(kv.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Reply = inbox
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	// NextMsg turns the answer of NATS into an error; a callback gets it as it is.
	if back, err := sub.NextMsg(10 * time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("%v, %v", back, err)
	}
	answers := make(chan *nats.Msg, 1)
	if sub, err = nc.ChanSubscribe(inbox+".again", answers); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	m.Reply = inbox + ".again"
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	select {
	case back := <-answers:
		if _, err := bus.DecodeInfo(back); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%v: %v, want ErrUnavailable", back.Header, err)
		}
	case <-time.After(10 * time.Second):
		t.Error("no answer")
	}
}
