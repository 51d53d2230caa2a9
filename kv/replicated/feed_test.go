package replicated_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// A worker that gets none of the records that JetStream sends out has them all
// the same.
func TestRecordsThatAreLostAreFetched(t *testing.T) {
	s := bustest.StartServer(t, server.Options{
		JetStream: true, StoreDir: t.TempDir(), MaxPayload: 8 << 20,
		Users: []*server.User{
			{Username: "whole", Password: "x"},
			{Username: "deaf", Password: "x", Permissions: &server.Permissions{
				Subscribe: &server.SubjectPermission{Deny: []string{"$KVBUS.*.*.live"}},
			}},
		},
	})
	connect := func(user string) *replicated.Store {
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		store, err := replicated.Open(bounded(t), bustest.Connect(t, s, nats.UserInfo(user, "x"), quiet), replicated.Options{Limits: kv.Limits{MaxKeys: 10}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	}
	whole, deaf := connect("whole"), connect("deaf")
	for i := range 20 {
		if _, err := kv.Of(deaf).Set(bounded(t), "k", fmt.Sprint("own ", i)); err != nil {
			t.Fatal(err)
		}
		other := fmt.Sprint("other ", i)
		if _, err := kv.Of(whole).Set(bounded(t), "k", other); err != nil {
			t.Fatal(err)
		}
		if entry, err := kv.Of(deaf).Get(bounded(t), "k"); err != nil || entry.Value != other {
			t.Fatalf("it reads %q, %v; want %q", entry.Value, err, other)
		}
	}
	// So it has them where each is more than is asked for at once.
	for i := range 2 {
		large := fmt.Sprint(i, strings.Repeat("v", 5<<20))
		if _, err := kv.Of(whole).Set(bounded(t), "large", large); err != nil {
			t.Fatal(err)
		}
		if entry, err := kv.Of(deaf).Get(bounded(t), "large"); err != nil || entry.Value != large {
			t.Fatalf("it reads a value of %d bytes, %v; want %d", len(entry.Value), err, len(large))
		}
	}
	// What it does not ask for it has as well, a little later.
	events := deaf.Watch(bounded(t), kv.WatchOptions{})
	if _, err := kv.Of(whole).Set(bounded(t), "k", "last"); err != nil {
		t.Fatal(err)
	}
	for event, err := range events {
		if err != nil || event.Value != "last" {
			t.Errorf("the event is %+v, %v", event, err)
		}
		break
	}
}

// Records that come by themselves are not asked for as well.
func TestRecordsThatComeAreNotFetched(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{})
	set := func() {
		t.Helper()
		if _, err := kv.Of(store).Set(bounded(t), "k", ""); err != nil {
			t.Fatal(err)
		}
	}
	set() // after the first one it is sure of the log
	asked, err := bustest.Connect(t, s).SubscribeSync("$JS.API.DIRECT.GET.>")
	if err != nil {
		t.Fatal(err)
	}
	const writes = 100
	for range writes {
		set()
	}
	if n, _, err := asked.Pending(); err != nil || n > writes/2 {
		t.Errorf("with %d records the log is asked %d times, %v", writes, n, err)
	}
}

// A log that has lost what a worker has applied is none to go on with: its next
// record is not the one after.
func TestLogThatWentBack(t *testing.T) {
	s := startServer(t)
	first, proxy := openThrough(t, s, replicated.Options{})
	for i := range 10 {
		if _, err := kv.Of(first).Set(bounded(t), fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Redirect("127.0.0.1:1") // it is away, or there could be no other log
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(bounded(t), "KVBUS_kv"); err != nil {
		t.Fatal(err)
	}
	second := open(t, s, replicated.Options{Limits: kv.Limits{MaxKeys: 5}}) // appends a record
	proxy.Redirect(s.Addr().String())
	for failed, ctx := false, bounded(t); !failed; {
		select {
		case err := <-first.Failed():
			t.Log(err)
			failed = true
		default:
			if _, err := kv.Of(second).Set(ctx, "new", "v"); err != nil {
				t.Fatalf("the worker goes on with another log: %v", err)
			}
		}
	}
	if entry, err := kv.Of(second).Get(bounded(t), "k0"); err == nil {
		t.Errorf("the new log has %+v", entry)
	}
}

// What looks like a record and was not sent by JetStream is not taken for one.
func TestNoRecord(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{})
	nc := bustest.Connect(t, s)
	for _, header := range []nats.Header{
		nil,
		{"Nats-Stream": {"KVBUS_kv"}, "Nats-Sequence": {"0"}, "Nats-Time-Stamp": {"2026-01-02T03:04:05Z"}},
		{"Nats-Stream": {"KVBUS_kv"}, "Nats-Sequence": {"2"}, "Nats-Time-Stamp": {"yesterday"}},
		{"Nats-Stream": {"other"}, "Nats-Sequence": {"2"}, "Nats-Time-Stamp": {"2026-01-02T03:04:05Z"}},
	} {
		if err := nc.PublishMsg(&nats.Msg{Subject: "$KVBUS.kv.log.live", Header: header, Data: []byte("garbage")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Of(store).Set(bounded(t), "k", "v"); err != nil {
		t.Error(err)
	}
}
