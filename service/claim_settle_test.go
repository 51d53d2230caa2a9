package service

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"kvbus/bus/bustest"
)

// A worker that asks whose a better claim is, when its own wait is nearly over, waits
// for that answer: the other one compares with a claim that had not settled, and stays.
func TestOneOfTwoClaimsSettles(t *testing.T) {
	nc := bustest.Connect(t, bustest.StartServer(t, server.Options{}))
	early, late := newClaim(nc, "kv", "early", false, nil), newClaim(nc, "kv", "late", false, nil)
	late.since = early.since + 1
	ping := func(c *claim) nats.Header {
		header := nats.Header{}
		c.describe(header.Set)
		return header
	}
	answer := func(c *claim, ping nats.Header) *nats.Msg {
		identity := micro.ServiceIdentity{Metadata: map[string]string{}}
		c.meet(ping, identity.Metadata)
		body, err := json.Marshal(micro.Ping{ServiceIdentity: identity})
		if err != nil {
			t.Fatal(err)
		}
		return &nats.Msg{Data: body}
	}
	fromLate := answer(late, ping(early)) // it asks
	question := ping(late)
	if settled, err := late.tryToSettle(false); settled || err != nil {
		t.Fatalf("the later one settles before it has the answer: %v, %v", settled, err)
	}
	late.hear(answer(early, question))
	early.hear(fromLate)
	if settled, err := late.tryToSettle(true); settled || !errors.Is(err, ErrPrefixTaken) {
		t.Errorf("the later one: %v, %v", settled, err)
	}
	if settled, err := early.tryToSettle(false); !settled || err != nil {
		t.Errorf("the earlier one: %v, %v", settled, err)
	}
}

// Of two claims one is better, and both workers see the same one as that. One that has
// settled stays, also before one by a clock that is behind.
func TestBetterClaim(t *testing.T) {
	for name, tt := range map[string]struct{ better, worse rival }{
		"earlier":                  {rival{since: 1, id: "b"}, rival{since: 2, id: "a"}},
		"by its id":                {rival{since: 1, id: "a"}, rival{since: 1, id: "b"}},
		"earlier of two settled":   {rival{settled: true, since: 1, id: "b"}, rival{settled: true, since: 2, id: "a"}},
		"settled before earlier":   {rival{settled: true, since: 2, id: "b"}, rival{since: 1, id: "a"}},
		"settled, of a shared one": {rival{settled: true, since: 2, id: "b", shared: true}, rival{since: 1, id: "a"}},
	} {
		if !tt.better.better(tt.worse) || tt.worse.better(tt.better) {
			t.Errorf("%s: %+v is better than %+v: %v, and the other way round: %v", name, tt.better, tt.worse, tt.better.better(tt.worse), tt.worse.better(tt.better))
		}
	}
}

// A worker is asked by its id, which anybody may have made up.
func TestIDsThatAreTokens(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "AZaz09": true, nuid.Next(): true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a.b": false, "*": false, ">": false, "a b": false, "a\r\n": false,
		"ä": false, "/": false, ":": false, "@": false, "[": false, "`": false, "{": false,
	} {
		if got := isToken(id); got != want {
			t.Errorf("%q is a token: %v, want %v", id, got, want)
		}
	}
}
