package service_test

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/service"
	"kvbus/watchbridge"
)

// The load of the benchmarks: clients with connections of their own over TCP,
// each with many requests in flight.
const (
	benchConns    = 4
	benchInFlight = 64
	benchKeys     = 1000
)

var benchValue = make([]byte, 128)

func benchKey(i uint64) string { return "bench." + strconv.FormatUint(i%benchKeys, 10) }

// load makes n requests, inFlight on each connection at a time, and returns how
// long that took.
func load(b *testing.B, conns []*nats.Conn, inFlight, n int, request asking) time.Duration {
	var next atomic.Uint64
	var clients sync.WaitGroup
	began := time.Now()
	for _, nc := range conns {
		for range inFlight {
			clients.Go(func() {
				for i := next.Add(1); i <= uint64(n); i = next.Add(1) {
					if err := request(nc, i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
	}
	clients.Wait()
	return time.Since(began)
}

// pipeline is load by clients that send the next request when an answer comes, and
// have no goroutine for each: they take less of the processors, which they share with
// the servers.
func pipeline(b *testing.B, conns []*nats.Conn, inFlight, n int, subject func(i uint64) string, body []byte) time.Duration {
	var next, answered atomic.Int64
	done := make(chan struct{})
	ask := func(nc *nats.Conn, inbox string) {
		i := next.Add(1)
		if i > int64(n) {
			return
		}
		if err := nc.PublishRequest(subject(uint64(i)), inbox+strconv.FormatInt(i, 10), body); err != nil {
			b.Error(err)
		}
	}
	inboxes := make([]string, len(conns))
	for i, nc := range conns {
		inbox := nc.NewInbox() + "."
		inboxes[i] = inbox
		sub, err := nc.Subscribe(inbox+"*", func(m *nats.Msg) {
			if err := bus.DecodeError(m.Header); err != nil || bytes.Contains(m.Data, []byte(`"error"`)) { // of JetStream
				b.Error(err, string(m.Data))
			}
			if answered.Add(1) == int64(n) {
				close(done)
			}
			ask(nc, inbox)
		})
		if err == nil {
			err = nc.Flush()
		}
		if err != nil {
			b.Fatal(err)
		}
		defer sub.Unsubscribe()
	}
	began := time.Now()
	for i, nc := range conns {
		for range inFlight {
			ask(nc, inboxes[i])
		}
	}
	select {
	case <-done:
	case <-time.After(10 * time.Minute):
		b.Fatalf("%d of %d requests are answered", answered.Load(), n)
	}
	return time.Since(began)
}

// benchServer are the options of the server, which are those of an embedded one.
func benchServer(b *testing.B) server.Options {
	return server.Options{JetStream: true, StoreDir: b.TempDir(), MaxPayload: 8 << 20, NoSublistCache: true}
}

func ask(subject string, body []byte) asking {
	return func(nc *nats.Conn, i uint64) error {
		m, err := nc.Request(subject+benchKey(i), body, 10*time.Second)
		if err != nil {
			return err
		}
		return bus.DecodeError(m.Header)
	}
}

// BenchmarkBus compares requests over the bus with an echo, which answers the
// same bytes and one header on the same kind of server, and with a JetStream
// key-value bucket.
func BenchmarkBus(b *testing.B) {
	s := bustest.StartServer(b, benchServer(b))
	conns := make([]*nats.Conn, benchConns)
	for i := range conns {
		conns[i] = bustest.Connect(b, s)
	}
	startEcho(b, s)
	startKV(b, s, "kv", memory.New(memory.Options{}))
	startKV(b, s, "durable", openReplicated(b, s, replicated.Options{Prefix: "durable"}))
	startKV(b, s, "eventual", openReplicated(b, s, replicated.Options{Prefix: "eventual", Consistency: kv.Eventual}))
	bucket := startBucket(b, conns, 1)

	compare(b, conns, []system{
		{"echo", ask("echo.get.", nil), ask("echo.set.", benchValue)},
		{"echo+event", nil, ask("notify.set.", benchValue)},
		{"kvbus", ask("kv.get.", nil), ask("kv.set.", benchValue)},
		{"durable", ask("durable.get.", nil), ask("durable.set.", benchValue)},
		{"eventual", ask("eventual.get.", nil), ask("eventual.set.", benchValue)},
		{"jetstream", bucket.get, bucket.put},
	})
}

// A system is one of those that are compared; what it does not do is nil.
type system struct {
	name     string
	get, set asking
}

type asking = func(nc *nats.Conn, i uint64) error

// compare lets the systems take turns, under a load and with single requests.
func compare(b *testing.B, conns []*nats.Conn, systems []system) {
	for _, system := range systems {
		if system.set != nil {
			load(b, conns[:1], benchInFlight, benchKeys, system.set) // all keys are there
		}
	}
	for _, shape := range []struct {
		name            string
		conns, inFlight int
	}{
		{"load", benchConns, benchInFlight},
		{"single", 1, 1},
	} {
		run := func(name string, op func(system) asking) {
			var contestants []bustest.Contestant
			for _, system := range systems {
				if request := op(system); request != nil {
					contestants = append(contestants, bustest.Contestant{Name: system.name, Run: func(n int) time.Duration {
						return load(b, conns[:shape.conns], shape.inFlight, n, request)
					}})
				}
			}
			b.Run(shape.name+"/"+name, func(b *testing.B) { bustest.Compare(b, contestants) })
		}
		run("get", func(s system) asking { return s.get })
		run("set", func(s system) asking { return s.set })
	}
}

// startEcho answers at once and keeps nothing. On notify it publishes what it got
// as well, as large as an event, on a connection of its own.
func startEcho(b *testing.B, s *server.Server) {
	nc := bustest.Connect(b, s, nats.InProcessServer(s))
	events := bustest.Connect(b, s, nats.InProcessServer(s))
	for subject, body := range map[string][]byte{"echo.get.>": benchValue, "echo.set.>": []byte("1234567"), "notify.set.>": []byte("1234567")} {
		if _, err := nc.QueueSubscribe(subject, "q", func(m *nats.Msg) {
			if strings.HasPrefix(m.Subject, "notify") {
				event := nats.Msg{Subject: "events." + m.Subject, Data: m.Data, Header: nats.Header{
					bus.HeaderOperation:        {"SET"},
					bus.HeaderRevision:         {"1234567"},
					bus.HeaderPreviousRevision: {"1233567"},
					bus.HeaderTime:             {"2026-01-02T03:04:05.123456789Z"},
				}}
				if err := events.PublishMsg(&event); err != nil {
					b.Error(err)
				}
			}
			answer := nats.Msg{Subject: m.Reply, Data: body, Header: nats.Header{bus.HeaderRevision: {"1234567"}}}
			if err := nc.PublishMsg(&answer); err != nil {
				b.Error(err)
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		b.Fatal(err)
	}
}

func openReplicated(b *testing.B, s *server.Server, opts replicated.Options) kv.Store {
	opts.Cursor = watchbridge.Cursor
	store, err := replicated.Open(b.Context(), bustest.Connect(b, s, nats.InProcessServer(s)), opts)
	if err != nil {
		b.Fatal(err)
	}
	return store
}

// startKV serves store under prefix, with its events.
func startKV(b *testing.B, s *server.Server, prefix string, store kv.Store) {
	subjects, err := bus.NewSubjects(prefix)
	if err != nil {
		b.Fatal(err)
	}
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return nats.Connect("", nats.InProcessServer(s), nats.NoReconnect())
		},
		Subjects: subjects,
	})
	nc := bustest.Connect(b, s, nats.InProcessServer(s))
	if _, err := service.Start(b.Context(), nc, store, service.Options{Subjects: subjects, ClaimWait: time.Millisecond}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := bridge.Wait(ctx); err != nil {
			b.Error(err)
		}
		if lost := bridge.Stats().Lost; lost > 0 {
			b.Errorf("%d events were lost", lost)
		}
	})
}

// A bucket is a JetStream key-value bucket, seen from each connection.
type bucket map[*nats.Conn]jetstream.KeyValue

func startBucket(b *testing.B, conns []*nats.Conn, replicas int) bucket {
	buckets := bucket{}
	for _, nc := range conns {
		js, err := jetstream.New(nc)
		if err != nil {
			b.Fatal(err)
		}
		values, err := js.CreateOrUpdateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "bench", Storage: jetstream.FileStorage, Replicas: replicas})
		if err != nil {
			b.Fatal(err)
		}
		buckets[nc] = values
	}
	return buckets
}

func (bucket bucket) get(nc *nats.Conn, i uint64) error {
	_, err := bucket[nc].Get(context.Background(), benchKey(i))
	return err
}

func (bucket bucket) put(nc *nats.Conn, i uint64) error {
	_, err := bucket[nc].Put(context.Background(), benchKey(i), benchValue)
	return err
}
