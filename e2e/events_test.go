package e2e

import (
	"strings"
	"testing"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	w, monitor := serveMonitored(t)
	c := terminal{t, w.url}
	before := subscribers(t, monitor)
	sub, output := c.start("sub", "kv.events.>", "--count", "9")
	awaitSubscriber(t, monitor, before, sub.ended)

	c.request("kv.set.color", "blue")
	c.request("kv.touch.color", "1h")
	c.request("kv.cas.color", "green", "KV-Expected: blue")
	c.request("kv.incr.user.7.hits", "3")
	c.request("kv.set.brief", "x", "KV-TTL: 1ms") // and its expiry
	if !output.await(sub.ended, containing("EXPIRE")) {
		t.Fatalf("there is no event of an expiry:\n%s", output.String())
	}
	c.request("kv.set.a.=.b", "odd")
	c.request("kv.delete.color", "")
	c.request("kv.clear.user", "")
	sub.expectExit(t, 0)

	want := []struct {
		subject string
		headers []string
		body    string
	}{
		{"kv.events.color", []string{"KV-Operation: SET", "KV-Revision: 1", "KV-Previous-Revision: 0", "KV-Time: "}, "blue"},
		{"kv.events.color", []string{"KV-Operation: TOUCH", "KV-Revision: 2", "KV-Previous-Revision: 1", "KV-Expires-At: "}, ""},
		{"kv.events.color", []string{"KV-Operation: SET", "KV-Revision: 3", "KV-Previous-Revision: 2"}, "green"},
		{"kv.events.user.7.hits", []string{"KV-Operation: SET", "KV-Revision: 4", "KV-Previous-Revision: 0"}, "3"},
		{"kv.events.brief", []string{"KV-Operation: SET", "KV-Revision: 5", "KV-Expires-At: "}, "x"},
		{"kv.events.brief", []string{"KV-Operation: EXPIRE", "KV-Revision: 6", "KV-Previous-Revision: 5"}, ""},
		{"kv.events.a.=.b", []string{"KV-Operation: SET", "KV-Revision: 7"}, "odd"},
		{"kv.events.color", []string{"KV-Operation: DELETE", "KV-Revision: 8", "KV-Previous-Revision: 3"}, ""},
		{"kv.events.user.7.hits", []string{"KV-Operation: DELETE", "KV-Revision: 9", "KV-Previous-Revision: 4"}, ""},
	}
	// Each message begins with [#1], [#2] and so on.
	messages := strings.Split(untimed(output.String()), "\n[#")[1:]
	if len(messages) != len(want) {
		t.Fatalf("%d events; want %d:\n%s", len(messages), len(want), output.String())
	}
	for i, message := range messages {
		expectParts(t, message, `Received on "`+want[i].subject+`"`)
		for _, header := range want[i].headers {
			expectParts(t, message, header)
		}
		// The body comes after the headers and an empty line.
		_, body, _ := strings.Cut(message, "\n\n")
		if body = strings.TrimSpace(body); body != want[i].body && !(want[i].body == "" && body == "nil body") {
			t.Errorf("event %d has the body %q; want %q", i+1, body, want[i].body)
		}
	}
}

func TestEventsOfAWildcard(t *testing.T) {
	t.Parallel()
	w, monitor := serveMonitored(t, "--prefix", "team.kv")
	c := terminal{t, w.url}
	before := subscribers(t, monitor)
	sub, output := c.start("sub", "team.kv.events.user.*.name", "--count", "1")
	awaitSubscriber(t, monitor, before, sub.ended)

	c.request("team.kv.set.user.7.mail", "x")
	c.request("team.kv.set.user.7.name", "Ada", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	sub.expectExit(t, 0)
	expectParts(t, output.String(),
		`"team.kv.events.user.7.name"`, "KV-Revision: 2", "Ada",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	expectParts(t, c.full("kv.get.user.7.name", ""), "No responders")
}
