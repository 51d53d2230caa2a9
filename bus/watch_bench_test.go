package bus_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
)

// BenchmarkWatch compares a watch with a plain subscription to the same events,
// which come as fast as the store can be written to.
func BenchmarkWatch(b *testing.B) {
	for _, name := range []string{"subscription", "watch", "filtered"} {
		b.Run(name, func(b *testing.B) {
			st := newWatchStage(b, memory.Options{})
			done := make(chan struct{})
			count := 0
			if name == "subscription" {
				nc := bustest.Connect(b, st.server)
				sub, err := nc.Subscribe("kv.events.>", func(*nats.Msg) {
					if count++; count == b.N {
						close(done)
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
			} else {
				opts := bus.FollowOptions{}
				if name == "filtered" {
					opts.Filter = parseFilter(b, "bench.*")
				}
				client, err := bus.NewClient(bustest.Connect(b, st.server), bus.ClientOptions{})
				if err != nil {
					b.Fatal(err)
				}
				changes := client.Follow(b.Context(), opts)
				go func() {
					for _, err := range changes {
						if err != nil {
							b.Error(err)
							break
						}
						if count++; count == b.N {
							break
						}
					}
					close(done)
				}()
			}
			value := string(make([]byte, 128))
			b.ResetTimer()
			for i := range b.N {
				if _, err := st.store.Do(b.Context(), kv.Command{Op: kv.OpSet, Key: "bench." + strconv.Itoa(i%1000), Value: value}); err != nil {
					b.Fatal(err)
				}
				// Beyond the ring the bridge would lose events.
				for i%1024 == 0 && uint64(i) > st.bridge.Stats().Published+32_768 {
					time.Sleep(100 * time.Microsecond)
				}
			}
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
