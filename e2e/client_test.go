package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"kvbus/bus"
)

// connect connects to url as a client of the test's.
func connect(t *testing.T, url string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.Name(t.Name()), nats.Timeout(patience)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// ask makes a request and returns the body of the answer, or its error.
func ask(nc *nats.Conn, subject, body string) (string, error) {
	answer, err := nc.Request(subject, []byte(body), patience)
	if err != nil {
		return "", err
	}
	return string(answer.Data), bus.DecodeError(answer.Header)
}

// mustAsk is ask where no error is expected.
func mustAsk(t *testing.T, nc *nats.Conn, subject, body string) string {
	t.Helper()
	answer, err := ask(nc, subject, body)
	if err != nil {
		t.Fatalf("%s %q: %v", subject, body, err)
	}
	return answer
}

// persist is mustAsk that asks again while nodes come and go, and where the
// machine is slower than the worker waits. A write counts once.
func persist(t *testing.T, nc *nats.Conn, subject, body string) string {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	if strings.HasPrefix(subject, "kv.set.") || strings.HasPrefix(subject, "kv.incr.") {
		m.Header.Set(bus.HeaderRequestID, nuid.Next())
	}
	for deadline := time.Now().Add(patience); ; {
		answer, err := nc.RequestMsg(m, patience/3) // it may have gone to a worker that was lost
		if err == nil {
			err = bus.DecodeError(answer.Header)
		}
		if err == nil {
			return string(answer.Data)
		}
		if !isPassing(err) || time.Now().After(deadline) {
			t.Fatalf("%s %q: %v", subject, body, err)
		}
	}
}

func subscribe(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	// For tests with more than nats.go would hold.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	return sub
}

// next waits for a message.
func next(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	m, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatalf("no message on %s: %v", sub.Subject, err)
	}
	return m
}

// request sends a request, again while nobody is there to take it.
func request(t *testing.T, nc *nats.Conn, m *nats.Msg) *nats.Msg {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		reply, err := nc.RequestMsg(m, patience)
		if errors.Is(err, nats.ErrNoResponders) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", m.Subject, err)
		}
		return reply
	}
}
