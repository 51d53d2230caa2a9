package bus_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
)

// BenchmarkWatch compares watches with a plain subscription to the same events,
// under a full load of writes over the bus, and of writes into the store itself.
func BenchmarkWatch(b *testing.B) {
	st := newWatchStage(b, memory.Options{})
	plain := bustest.Connect(b, st.server)
	client, err := bus.NewClient(bustest.Connect(b, st.server), bus.ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for _, writes := range []struct {
		over  string
		write func(n int)
	}{{"bus", st.busWriter(b)}, {"store", st.storeWriter(b)}} {
		contestant := func(name string, receive func(n int) <-chan struct{}) bustest.Contestant {
			return bustest.Contestant{Name: name, Run: func(n int) time.Duration {
				received := receive(n)
				began := time.Now()
				writes.write(n)
				<-received
				return time.Since(began)
			}}
		}
		watch := func(opts bus.FollowOptions) func(n int) <-chan struct{} {
			return func(n int) <-chan struct{} { return receiveWatch(b, client, opts, n) }
		}
		b.Run(writes.over, func(b *testing.B) {
			bustest.Compare(b, []bustest.Contestant{
				contestant("subscription", func(n int) <-chan struct{} { return receivePlain(b, plain, n) }),
				contestant("watch", watch(bus.FollowOptions{})),
				contestant("filtered", watch(bus.FollowOptions{Filter: parseFilter(b, "bench.*")})),
			})
		})
	}
}

// receivePlain subscribes, and closes what it returns at the nth event.
func receivePlain(b *testing.B, nc *nats.Conn, n int) <-chan struct{} {
	received := make(chan struct{})
	sub, err := nc.Subscribe("kv.events.>", func(m *nats.Msg) {
		if n--; n == 0 {
			_ = m.Sub.Unsubscribe()
			close(received)
		}
	})
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		b.Fatal(err)
	}
	return received
}

// receiveWatch starts a watch, and closes what it returns at the nth event.
func receiveWatch(b *testing.B, client *bus.Client, opts bus.FollowOptions, n int) <-chan struct{} {
	received := make(chan struct{})
	changes := client.Follow(b.Context(), opts)
	go func() {
		defer close(received)
		for _, err := range changes {
			if err != nil {
				b.Error(err)
				return
			}
			if n--; n == 0 {
				return
			}
		}
	}()
	return received
}

func benchEventKey(i int) string { return "bench." + strconv.Itoa(i%1000) }

// busWriter writes with 64 requests in flight on each of 4 connections.
func (st *watchStage) busWriter(b *testing.B) func(n int) {
	var conns []*nats.Conn
	for range 4 {
		conns = append(conns, bustest.Connect(b, st.server))
	}
	value := make([]byte, 128)
	return func(n int) {
		var next atomic.Int64
		var writers sync.WaitGroup
		for _, nc := range conns {
			for range 64 {
				writers.Go(func() {
					for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
						if _, err := nc.Request("kv.set."+benchEventKey(i), value, 10*time.Second); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
		}
		writers.Wait()
	}
}

// storeWriter writes as fast as the events are published.
func (st *watchStage) storeWriter(b *testing.B) func(n int) {
	value := string(make([]byte, 128))
	return func(n int) {
		before := st.bridge.Stats().Published
		for i := range n {
			if _, err := st.store.Do(b.Context(), kv.Command{Op: kv.OpSet, Key: benchEventKey(i), Value: value}); err != nil {
				b.Fatal(err)
			}
			// Beyond the ring the bridge would lose events.
			for i%1024 == 0 && uint64(i) > st.bridge.Stats().Published-before+32_768 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
}
