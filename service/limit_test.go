package service_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

func TestValueLargerThanTheBusCarries(t *testing.T) {
	s := bustest.StartServer(t, server.Options{MaxPayload: 64 << 10})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	var info bus.Info
	if err := json.Unmarshal(request(t, nc, "kv.info", "").Data, &info); err != nil {
		t.Fatal(err)
	}
	limit := info.MaxValueSize
	if limit <= 0 || limit >= 64<<10 {
		t.Fatalf("the effective limit is %d on a bus that carries %d", limit, 64<<10)
	}
	expect(t, nc, "kv.set.fits", strings.Repeat("x", int(limit)), "1")
	expect(t, nc, "kv.set.large", strings.Repeat("x", int(limit)+1), "!value_too_large")
	if got := len(request(t, nc, "kv.get.fits", "").Data); got != int(limit) {
		t.Errorf("%d of %d bytes came back", got, limit)
	}
	// A value that came in by another way is told as what it is.
	if _, err := kv.Of(store).Set(t.Context(), "direct", strings.Repeat("x", 100<<10)); err != nil {
		t.Fatal(err)
	}
	expect(t, nc, "kv.get.direct", "", "!value_too_large")
	answers := stream(t, nc, "kv.scan")
	if got := answers[len(answers)-1].Header.Get(bus.HeaderError); got != "value_too_large" {
		t.Errorf("a scan over a value too large ends with %q", got)
	}
}
