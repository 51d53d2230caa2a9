package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestOperations(t *testing.T) {
	t.Parallel()
	c := terminal{t, serve(t).url}
	// In order, on one store: the revisions are part of what is expected.
	for _, step := range []struct {
		name    string
		subject string
		body    string
		headers []string
		want    []string // parts of what nats prints
	}{
		{"set", "kv.set.color", "blue", nil, []string{"KV-Revision: 1\n", "\n1\n"}},
		{"get", "kv.get.color", "", nil, []string{"KV-Revision: 1\n", "\nblue\n"}},
		{"set with a deadline", "kv.set.lease", "a", []string{"KV-TTL: 1h"}, []string{"KV-Expires-At: ", "\n2\n"}},
		{"get with a deadline", "kv.get.lease", "", nil, []string{"KV-Expires-At: ", "\na\n"}},
		{"header names in any case", "kv.set.lease", "b", []string{"kv-keep-ttl: true"}, []string{"KV-Expires-At: ", "\n3\n"}},
		{"set takes the deadline away", "kv.set.lease", "b", nil, []string{"KV-Revision: 4\n"}},
		{"exists", "kv.exists.color", "", nil, []string{"KV-Revision: 1\n", "\ntrue\n"}},
		{"exists not", "kv.exists.colour", "", nil, []string{"\nfalse\n"}},
		{"cas that creates", "kv.cas.leader", "n1", nil, []string{"KV-Revision: 5\n", "\ntrue\n"}},
		{"cas that finds a key", "kv.cas.leader", "n2", nil, []string{"KV-Revision: 5\n", "\nfalse\n"}},
		{"cas by value", "kv.cas.leader", "n2", []string{"KV-Expected: n1"}, []string{"KV-Revision: 6\n", "\ntrue\n"}},
		{"cas by value, not held", "kv.cas.leader", "n3", []string{"KV-Expected: n1"}, []string{"KV-Revision: 6\n", "\nfalse\n"}},
		{"cas by value in the body", "kv.cas.leader", "n2n3", []string{"KV-Expected-Length: 2"}, []string{"KV-Revision: 7\n", "\ntrue\n"}},
		{"cas by revision", "kv.cas.leader", "n4", []string{"KV-Expected-Revision: 7"}, []string{"KV-Revision: 8\n", "\ntrue\n"}},
		{"cas by revision, not held", "kv.cas.leader", "n5", []string{"KV-Expected-Revision: 7"}, []string{"KV-Revision: 8\n", "\nfalse\n"}},
		{"incr by 1", "kv.incr.hits", "", nil, []string{"KV-Revision: 9\n", "\n1\n"}},
		{"incr", "kv.incr.hits", "-43", nil, []string{"\n-42\n"}},
		{"incr saturates", "kv.incr.hits", "-9223372036854775808", nil, []string{"KV-Revision: 11\n", "\n-9223372036854775808\n"}},
		{"ttl of none", "kv.ttl.color", "", nil, []string{"\nnever\n"}},
		{"touch", "kv.touch.color", "1h", nil, []string{"KV-Revision: 12\n", "KV-Expires-At: ", "\ntrue\n"}},
		{"ttl", "kv.ttl.color", "", nil, []string{"\n59m"}},
		{"touch never", "kv.touch.color", "never", nil, []string{"\ntrue\n"}},
		{"touch without a key", "kv.touch.colour", "1h", nil, []string{"\nfalse\n"}},
		{"keys", "kv.keys", "", nil, []string{"KV-Count: 4\n", "\ncolor\nhits\nleader\nlease\n"}},
		{"keys under a prefix", "kv.keys.le", "", nil, []string{"KV-Count: 2\n", "\nleader\nlease\n"}},
		{"keys by a filter", "kv.keys", "", []string{"KV-Filter: color"}, []string{"KV-Count: 1\n", "\ncolor\n"}},
		{"a page of keys", "kv.keys", "", []string{"KV-Limit: 1"}, []string{"KV-Count: 1\n", "KV-Cursor: ", "\ncolor\n"}},
		{"an empty token", "kv.set.a.=.b", "odd", nil, []string{"KV-Revision: 14\n"}},
		{"a guarded set", "kv.set.color", "red", []string{"KV-Expected-Revision: 13"}, []string{"KV-Revision: 15\n"}},
		{"delete", "kv.delete.color", "", nil, []string{"KV-Revision: 16\n", "\ntrue\n"}},
		{"delete again", "kv.delete.color", "", nil, []string{"\nfalse\n"}},
		{"clear a prefix", "kv.clear.le", "", nil, []string{"\n2\n"}},
		{"clear", "kv.clear", "", nil, []string{"\n2\n"}},
		{"keys of none", "kv.keys", "", nil, []string{"KV-Count: 0\n", "KV-Revision: 20\n"}},
	} {
		text := untimed(c.full(step.subject, step.body, step.headers...))
		for _, want := range step.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: there is no %q in:\n%s", step.name, want, text)
			}
		}
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	c := terminal{t, serve(t).url}
	c.request("kv.set.a", "one")
	c.request("kv.set.b", "two", "KV-TTL: 1h")
	c.request("kv.delete.a", "")
	c.request("kv.set.c", "three")

	scan := untimed(c.nats("request", "kv.scan", "", "--replies", "3", "--reply-timeout", "30s"))
	expectParts(t, scan, "KV-Key: b\n", "KV-Expires-At: ", "\ntwo\n", "KV-Key: c\n", "\nthree\n", "KV-End: true\n", "KV-Revision: 4\n")

	page := untimed(c.nats("request", "kv.scan", "", "--replies", "2", "--reply-timeout", "30s", "-H", "KV-Limit: 1"))
	expectParts(t, page, "KV-Key: b\n", "KV-End: true\n", "KV-Cursor: ")
	if strings.Contains(page, "three") {
		t.Errorf("a page of one entry has two:\n%s", page)
	}

	// Told of a number of replies, the command stops at an event without a body.
	replay := untimed(c.nats("request", "kv.replay", "", "--replies", "0", "--timeout", "3s", "-H", "KV-From-Revision: 1"))
	expectParts(t, replay, "KV-Revision: 2\n", "KV-Operation: SET\n", "KV-Operation: DELETE\n", "KV-Previous-Revision: 1\n", "\nthree\n", "KV-End: true\n")
	if strings.Contains(replay, "one") {
		t.Errorf("a replay after revision 1 has its event:\n%s", replay)
	}
	// The empty message at the end is what the command can be told to stop at.
	if text := c.nats("request", "kv.scan", "", "--wait-for-empty"); !strings.Contains(text, "three") {
		t.Errorf("a scan up to the empty message has no entry:\n%s", text)
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	c := terminal{t, serve(t, "--max-keys", "2", "--name", "alpha").url}
	c.request("kv.set.color", "blue")
	var info struct {
		Name         string         `json:"name"`
		Version      string         `json:"version"`
		Prefix       string         `json:"prefix"`
		Uptime       string         `json:"uptime"`
		MaxValueSize int            `json:"max_value_size"`
		Store        string         `json:"store"`
		Clustered    bool           `json:"clustered"`
		Durable      bool           `json:"durable"`
		Revision     int            `json:"revision"`
		Oldest       int            `json:"oldest_revision"`
		Keys         int            `json:"keys"`
		Bytes        int            `json:"bytes"`
		Limits       map[string]int `json:"limits"`
		Published    int            `json:"events_published"`
		Lost         *int           `json:"events_lost"`
	}
	for late := time.Now().Add(patience); info.Published == 0; {
		if err := json.Unmarshal([]byte(c.request("kv.info", "")), &info); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(late) {
			t.Fatal("the event is not published")
		}
	}
	if uptime, err := time.ParseDuration(info.Uptime); err != nil || uptime <= 0 {
		t.Errorf("the uptime is %q", info.Uptime)
	}
	if info.Name != "alpha" || info.Version == "" || info.Prefix != "kv" || info.Store != "memory" || info.Clustered || info.Durable {
		t.Errorf("kv.info says of the service %+v", info)
	}
	if info.Published != 1 || info.Lost == nil || *info.Lost != 0 {
		t.Errorf("kv.info says of the events %+v", info)
	}
	if info.Revision != 1 || info.Oldest != 1 || info.Keys != 1 || info.Bytes != len("colorblue") {
		t.Errorf("kv.info says of the store %+v", info)
	}
	if info.MaxValueSize != 1<<20 || info.Limits["max_keys"] != 2 || info.Limits["max_value_size"] != 1<<20 || info.Limits["max_bytes"] != 0 {
		t.Errorf("kv.info says of the limits %+v", info)
	}
}

func TestErrorsAreVisible(t *testing.T) {
	t.Parallel()
	c := terminal{t, serve(t, "--max-keys", "2", "--max-value-size", "64").url}
	c.request("kv.set.word", "blue")
	c.request("kv.set.other", "1")
	for _, test := range []struct {
		subject, body string
		headers       []string
		code, name    string
	}{
		{"kv.get.none", "", nil, "404", "not_found"},
		{"kv.ttl.none", "", nil, "404", "not_found"},
		{"kv.get.a=b", "", nil, "400", "invalid_key"},
		{"kv.get.*", "", nil, "400", "invalid_key"},
		{"kv.keys.=", "", nil, "400", "invalid_key"},
		{"kv.set.word", "x", []string{"KV-TTL: soon"}, "400", "invalid_argument"},
		{"kv.set.word", "x", []string{"KV-Expected: blue"}, "400", "invalid_argument"},
		{"kv.cas.word", "x", []string{"KV-Expected: blue", "KV-Expected-Revision: 1"}, "400", "invalid_argument"},
		{"kv.incr.word", "1", nil, "409", "not_a_number"},
		{"kv.incr.other", "one", nil, "400", "invalid_argument"},
		{"kv.set.word", "x", []string{"KV-Expected-Revision: 7"}, "409", "conflict"},
		{"kv.replay", "", []string{"KV-From-Revision: 99"}, "410", "compacted"},
		{"kv.set.word", strings.Repeat("x", 65), nil, "413", "value_too_large"},
		{"kv.get.word", "", []string{"KV-Min-Revision: 99"}, "503", "unavailable"},
		{"kv.set.third", "x", nil, "507", "quota_exceeded"},
	} {
		text := untimed(c.full(test.subject, test.body, test.headers...))
		for _, want := range []string{
			"KV-Error: " + test.name + "\n",
			"Nats-Service-Error-Code: " + test.code + "\n",
			"Nats-Service-Error: ",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("%s %q %q: there is no %q in:\n%s", test.subject, test.body, test.headers, want, text)
			}
		}
	}
	if got := c.request("kv.get.word", ""); got != "blue" {
		t.Errorf("after requests that failed the value is %q", got)
	}
}

func TestRequestWithoutReply(t *testing.T) {
	t.Parallel()
	w, monitor := serveMonitored(t)
	c := terminal{t, w.url}
	before := subscribers(t, monitor)
	sub, events := c.start("sub", "kv.events.>", "--count", "1")
	awaitSubscriber(t, monitor, before, sub.ended)

	c.nats("pub", "kv.set.color", "blue", "-H", "KV-TTL: 1h")
	// The event tells when it was carried out.
	sub.expectExit(t, 0)
	expectParts(t, events.String(), `"kv.events.color"`, "KV-Expires-At: ")
	if got := c.request("kv.get.color", ""); got != "blue" {
		t.Errorf("the value is %q; want blue", got)
	}
}
