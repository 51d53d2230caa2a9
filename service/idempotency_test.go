package service_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

// A request that is sent again with its id is answered as the first time, and
// done once.
func TestRequestID(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	_, store := startService(t, s, memory.Options{Limits: kv.Limits{MaxKeys: 4, MaxValueSize: 1000}}, service.Options{})
	nc := bustest.Connect(t, s)

	expect(t, nc, "kv.set.full", "", "1")
	expect(t, nc, "kv.set.text", "text", "2")
	for _, tt := range []struct {
		subject, body, want string
		headers             []string
		events              uint64
	}{
		{"kv.set.a", "5", "3", []string{"KV-TTL", "1h"}, 1},
		{"kv.incr.a", "2", "7", nil, 1},
		{"kv.cas.a", "9", "true", []string{"KV-Expected", "7"}, 1},
		{"kv.cas.a", "8", "false", []string{"KV-Expected-Revision", "1"}, 0},
		{"kv.touch.a", "never", "true", nil, 1},
		{"kv.delete.a", "", "true", nil, 1},
		{"kv.delete.b", "", "false", nil, 0},
		{"kv.set.c.d", "1", "8", nil, 1},
		{"kv.clear.c.=", "", "1", nil, 1},
		{"kv.set.text", "x", "!conflict", []string{"KV-Expected-Revision", "9"}, 0},
		{"kv.incr.text", "", "!not_a_number", nil, 0},
		{"kv.set.text", strings.Repeat("v", 1001), "!value_too_large", nil, 0},
	} {
		id := tt.subject + tt.want // an id is one for its operation and key
		headers := append([]string{"KV-Request-Id", id}, tt.headers...)
		before := revision(t, store)
		first := expect(t, nc, tt.subject, tt.body, tt.want, headers...)
		if got := revision(t, store) - before; got != tt.events {
			t.Errorf("%s makes %d events, want %d", tt.subject, got, tt.events)
		}
		headers[0] = "kv-request-id"
		for range 2 {
			again := expect(t, nc, tt.subject, tt.body, tt.want, append(headers, "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")...)
			for _, name := range []string{bus.HeaderRevision, bus.HeaderExpiresAt, bus.HeaderError, bus.HeaderServiceErrorCode} {
				if got, want := again.Header.Get(name), first.Header.Get(name); got != want {
					t.Errorf("%s again: %s is %q, the first time it was %q", tt.subject, name, got, want)
				}
			}
		}
		if got := revision(t, store) - before; got != tt.events {
			t.Errorf("%s three times makes %d events, want %d", tt.subject, got, tt.events)
		}
	}

	expect(t, nc, "kv.set.b", "1", "10", "KV-Request-Id", "x")
	expect(t, nc, "kv.set.b", "2", "!invalid_argument", "KV-Request-Id", "x")
	expect(t, nc, "kv.set.b", "1", "!invalid_argument", "KV-Request-Id", "x", "KV-TTL", "1h")
	expect(t, nc, "kv.set.b", "1", "!invalid_argument", "KV-Request-Id", "x y")
	expect(t, nc, "kv.set.b", "1", "!invalid_argument", "KV-Request-Id", "")
	expect(t, nc, "kv.set.b", "1", "!invalid_argument", "KV-Request-Id", strings.Repeat("x", 129))
	expect(t, nc, "kv.set.b", "3", "11", "KV-Request-Id", strings.Repeat("x", 128))
	expect(t, nc, "kv.get.b", "", "3", "KV-Request-Id", "not for reads")
}

// Of requests with one id that are under way at the same time, one is carried
// out, and all have its answer.
func TestRequestIDAtTheSameTime(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	var clients sync.WaitGroup
	for range 4 {
		nc := bustest.Connect(t, s)
		for range 4 {
			clients.Go(func() { expect(t, nc, "kv.incr.n", "3", "3", "KV-Request-Id", "once") })
		}
	}
	clients.Wait()
	if got := revision(t, store); got != 1 {
		t.Errorf("the increments made %d events", got)
	}
}

func revision(t *testing.T, store kv.Store) uint64 {
	t.Helper()
	info, err := store.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.Revision
}
