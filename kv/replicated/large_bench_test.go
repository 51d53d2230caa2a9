package replicated

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/machine"
)

// largeKeys is the number of keys of a large store, of 128 bytes each: 100,000,
// or what KVBUS_BENCH_KEYS says.
func largeKeys(b *testing.B) int {
	b.Helper()
	text, ok := os.LookupEnv("KVBUS_BENCH_KEYS")
	if !ok {
		return 100_000
	}
	keys, err := strconv.Atoi(text)
	if err != nil || keys < 1 {
		b.Fatalf("KVBUS_BENCH_KEYS is %q", text)
	}
	return keys
}

// openLarge opens a store that takes no snapshots by itself.
func openLarge(b *testing.B, s *server.Server) *Store {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	store, err := Open(ctx, bustest.Connect(b, s, nats.InProcessServer(s)), Options{
		Limits:        kv.Limits{MaxValueSize: 1 << 20},
		SnapshotBytes: 1 << 50,
		SnapshotAge:   1000 * time.Hour,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	return store
}

// fill sets keys as many clients do, and returns the store.
func fill(b *testing.B, store *Store, keys int) *Store {
	b.Helper()
	value := strings.Repeat("v", 128)
	answers := make(chan error, 4096)
	answer := func() {
		if err := <-answers; err != nil {
			b.Fatal(err)
		}
	}
	for i := range keys {
		if i >= cap(answers) {
			answer()
		}
		store.Submit(b.Context(), kv.Command{Op: kv.OpSet, Key: fmt.Sprintf("sensor.%07d", i), Value: value}, func(_ kv.Result, err error) { answers <- err })
	}
	for range min(keys, cap(answers)) {
		answer()
	}
	return store
}

func largeServer(b *testing.B) *server.Server {
	b.Helper()
	return bustest.StartServer(b, server.Options{JetStream: true, StoreDir: b.TempDir()})
}

// BenchmarkOpen measures how long a worker takes to start.
func BenchmarkOpen(b *testing.B) {
	for _, from := range []string{"log", "snapshot"} {
		b.Run("from="+from, func(b *testing.B) {
			keys := largeKeys(b)
			s := largeServer(b)
			store := fill(b, openLarge(b, s), keys)
			if from == "snapshot" {
				if err := store.Snapshot(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			records := store.Applied()
			store.Close()
			for b.Loop() {
				b.StopTimer()
				runtime.GC()
				b.StartTimer()
				store := openLarge(b, s)
				b.StopTimer()
				if info, err := store.Info(b.Context()); err != nil || info.Keys != int64(keys) {
					b.Fatalf("%d keys of %d are there, %v", info.Keys, keys, err)
				}
				store.Close()
				b.StartTimer()
			}
			b.ReportMetric(float64(keys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
			b.ReportMetric(float64(records), "records")
		})
	}
}

// BenchmarkSnapshotPause measures how long a record waits at most until it can be
// applied while a snapshot is taken: "wait" is that for the locks, "command" that
// of a whole command. The "idle" ones are those of as many seconds without.
func BenchmarkSnapshotPause(b *testing.B) {
	s := largeServer(b)
	store := fill(b, openLarge(b, s), largeKeys(b))
	runtime.GC()
	var wait, command time.Duration
	var took time.Duration
	for b.Loop() {
		start := time.Now()
		done := make(chan error, 1)
		go func() { done <- store.Snapshot(b.Context()) }()
		w, c := pauses(b, store, done)
		wait, command = max(wait, w), max(command, c)
		took = time.Since(start)
	}
	b.StopTimer()
	idle := make(chan error, 1)
	time.AfterFunc(took, func() { idle <- nil })
	idleWait, idleCommand := pauses(b, store, idle)
	for name, pause := range map[string]time.Duration{"wait": wait, "command": command, "idle-wait": idleWait, "idle-command": idleCommand} {
		b.ReportMetric(float64(pause.Microseconds())/1000, "ms-"+name)
	}
}

// pauses returns the longest times of getting the locks that a record needs, and
// of commands one after the other, until something comes on done.
func pauses(b *testing.B, store *Store, done <-chan error) (wait, command time.Duration) {
	b.Helper()
	value := strings.Repeat("w", 128)
	for i := 0; ; i++ {
		select {
		case err := <-done:
			if err != nil {
				b.Fatal(err)
			}
			return wait, command
		default:
		}
		start := time.Now()
		store.feed.mu.Lock()
		_, err := store.shared.Update(func(*machine.Machine) {})
		wait = max(wait, time.Since(start))
		store.feed.mu.Unlock()
		if err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		if _, err := kv.Of(store).Set(b.Context(), fmt.Sprintf("sensor.%07d", i*7919%100_000), value); err != nil {
			b.Fatal(err)
		}
		command = max(command, time.Since(start))
	}
}
