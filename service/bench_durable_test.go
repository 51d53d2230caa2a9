package service_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv/replicated"
)

// count increments one key, which all clients share.
func count(prefix string) asking {
	request := ask(prefix+".incr.n.", nil)
	return func(nc *nats.Conn, _ uint64) error { return request(nc, 0) }
}

// BenchmarkSyncAlways compares the durable store with a bucket where each write
// waits for the disk.
func BenchmarkSyncAlways(b *testing.B) {
	opts := benchServer(b)
	opts.SyncAlways = true
	s := bustest.StartServer(b, opts)
	conns := make([]*nats.Conn, benchConns)
	for i := range conns {
		conns[i] = bustest.Connect(b, s)
	}
	startKV(b, s, "durable", openReplicated(b, s, replicated.Options{Prefix: "durable"}))
	bucket := startBucket(b, conns, 1)
	var contestants []bustest.Contestant
	for _, system := range []system{
		{name: "jetstream", set: bucket.put},
		{name: "durable", set: ask("durable.set.", benchValue)},
		{name: "counter", set: count("durable")},
	} {
		contestants = append(contestants, bustest.Contestant{Name: system.name, Run: func(n int) time.Duration {
			return load(b, conns, benchInFlight, n, system.set)
		}})
	}
	b.Run("load/set", func(b *testing.B) { bustest.Compare(b, contestants) })

	contestants = nil
	for _, system := range []struct {
		name    string
		subject func(i uint64) string
		body    []byte
	}{
		{"jetstream", func(i uint64) string { return "$KV.bench." + benchKey(i) }, benchValue}, // as a put does
		{"durable", func(i uint64) string { return "durable.set." + benchKey(i) }, benchValue},
		{"counter", func(uint64) string { return "durable.incr.m" }, nil},
	} {
		contestants = append(contestants, bustest.Contestant{Name: system.name, Run: func(n int) time.Duration {
			return pipeline(b, conns, benchInFlight, n, system.subject, system.body)
		}})
	}
	b.Run("pipeline/set", func(b *testing.B) { bustest.Compare(b, contestants) })
}

// BenchmarkCluster compares three nodes, each a server and a worker that answers
// its clients, with a bucket on three replicas.
func BenchmarkCluster(b *testing.B) {
	for _, sync := range []string{"lazy", "always"} {
		b.Run("sync="+sync, func(b *testing.B) {
			opts := benchServer(b)
			opts.SyncAlways = sync == "always"
			servers := keeping(b, "durable", opts)
			conns := make([]*nats.Conn, benchConns)
			for i := range conns {
				conns[i] = bustest.Connect(b, servers[i%len(servers)])
			}
			for _, s := range servers {
				startKV(b, s, "durable", openReplicated(b, s, replicated.Options{Prefix: "durable", Replicas: len(servers)}))
			}
			bucket := startBucket(b, conns, len(servers))
			compare(b, conns, []system{
				{"jetstream", bucket.get, bucket.put},
				{"durable", ask("durable.get.", nil), ask("durable.set.", benchValue)},
			})
		})
	}
}
