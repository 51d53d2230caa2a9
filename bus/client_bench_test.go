package bus_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
)

// BenchmarkClient compares the client with the bare requests of nats.go for the
// same things, on the same connection: single has one under way at a time, load
// has 64. Contexts have no deadline of their own.
func BenchmarkClient(b *testing.B) {
	s := memoryBus(b)
	nc := bustest.Connect(b, s)
	client := newClient(b, nc, bus.ClientOptions{})
	h := kv.Of(client)
	value := strings.Repeat("v", 128)
	body := []byte(value)
	if _, err := h.Set(b.Context(), "bench.key", value); err != nil {
		b.Fatal(err)
	}
	request := func(ctx context.Context, subject string, body []byte) error {
		ctx, cancel := context.WithTimeout(ctx, bus.DefaultTimeout)
		defer cancel()
		m, err := nc.RequestWithContext(ctx, subject, body)
		if err != nil {
			return err
		}
		return bus.DecodeError(m.Header)
	}
	for _, shape := range []struct {
		name     string
		inFlight int
	}{{"single", 1}, {"load", 64}} {
		for _, bench := range []struct {
			name string
			call func(ctx context.Context) error
		}{
			{"get/raw", func(ctx context.Context) error { return request(ctx, "kv.get.bench.key", nil) }},
			{"get/client", func(ctx context.Context) error { _, err := h.Get(ctx, "bench.key"); return err }},
			{"set/raw", func(ctx context.Context) error { return request(ctx, "kv.set.bench.key", body) }},
			{"set/client", func(ctx context.Context) error { _, err := h.Set(ctx, "bench.key", value); return err }},
		} {
			b.Run(shape.name+"/"+bench.name, func(b *testing.B) {
				b.ReportAllocs()
				var next atomic.Int64
				var callers sync.WaitGroup
				for range shape.inFlight {
					callers.Go(func() {
						for next.Add(1) <= int64(b.N) {
							if err := bench.call(b.Context()); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				callers.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			})
		}
	}
}
