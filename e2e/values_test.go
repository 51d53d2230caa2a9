package e2e

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/kv"
)

// The largest values go through everything, with the options of nats.go as
// they are by default.
func TestLargestValues(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	w := serve(t)
	nc, err := nats.Connect(w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	events, err := nc.SubscribeSync("kv.events.>")
	if err != nil {
		t.Fatal(err)
	}
	one, two := randomBytes(1, size), randomBytes(2, size)

	send := func(subject string, body []byte, headers ...string) *nats.Msg {
		t.Helper()
		m := nats.NewMsg(subject)
		m.Data = body
		for i := 0; i < len(headers); i += 2 {
			m.Header.Set(headers[i], headers[i+1])
		}
		reply := request(t, nc, m)
		if err := bus.DecodeError(reply.Header); err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		return reply
	}
	if got := send("kv.set.large", one).Data; string(got) != "1" {
		t.Errorf("set answers %q", got)
	}
	if got := send("kv.get.large", nil).Data; !bytes.Equal(got, one) {
		t.Errorf("get answers %d bytes that are not those of set", len(got))
	}
	both := append(bytes.Clone(one), two...)
	if got := send("kv.cas.large", both, bus.HeaderExpectedLength, strconv.Itoa(size)).Data; string(got) != "true" {
		t.Errorf("cas answers %q", got)
	}
	if got := send("kv.cas.large", both, bus.HeaderExpectedLength, strconv.Itoa(size)).Data; string(got) != "false" {
		t.Errorf("cas with a value that is not there answers %q", got)
	}
	for _, want := range [][]byte{one, two} {
		if got := next(t, events).Data; !bytes.Equal(got, want) {
			t.Errorf("an event has %d bytes that are not the value", len(got))
		}
	}

	send("kv.set.other", one)
	var page kv.Page
	stream(t, nc, "kv.scan", func(m *nats.Msg) (bool, error) { return bus.AddToPage(&page, m) })
	if len(page.Entries) != 2 || page.Entries[0].Value != string(two) || page.Entries[1].Value != string(one) {
		t.Errorf("a scan has %d entries that are not those written", len(page.Entries))
	}
	var replay kv.Replay
	stream(t, nc, "kv.replay", func(m *nats.Msg) (bool, error) { return bus.AddToReplay(&replay, m) })
	if len(replay.Events) != 3 || replay.Events[1].Value != string(two) {
		t.Errorf("a replay has %d events that are not those published", len(replay.Events))
	}

	m := nats.NewMsg("kv.set.larger")
	m.Data = make([]byte, size+1)
	if reply := request(t, nc, m); reply.Header.Get(bus.HeaderError) != "value_too_large" {
		t.Errorf("set of more than the limit is answered with %v", reply.Header)
	}
}

// stream sends a request and gives each message of the answer to add, until
// that is done.
func stream(t *testing.T, nc *nats.Conn, subject string, add func(*nats.Msg) (done bool, err error)) {
	t.Helper()
	inbox := nc.NewRespInbox()
	replies := subscribe(t, nc, inbox)
	defer replies.Unsubscribe()
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		t.Fatal(err)
	}
	for {
		done, err := add(next(t, replies))
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		if done {
			return
		}
	}
}

func randomBytes(seed uint64, size int) []byte {
	source := rand.New(rand.NewPCG(seed, seed))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(source.Uint32())
	}
	return b
}
