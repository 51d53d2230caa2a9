package memory_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"
	"time"

	"kvbus/kv"
	"kvbus/kv/memory"
)

var sizes = []int{1_000, 10_000, 100_000, 1_000_000}

// filled returns a store with n keys of 128 bytes and their names in the order
// of their creation.
func filled(tb testing.TB, n int, ttl time.Duration) (*memory.Store, []string) {
	tb.Helper()
	store := memory.New(memory.Options{Limits: kv.Limits{MaxKeys: math.MaxInt64, MaxValueSize: 1 << 20}})
	tb.Cleanup(func() { store.Close() })
	keys := make([]string, n)
	value := string(make([]byte, 128))
	for i := range keys {
		keys[i] = fmt.Sprintf("bench.%08d", i)
		if _, err := store.Do(context.Background(), kv.Command{Op: kv.OpSet, Key: keys[i], Value: value, TTL: ttl}); err != nil {
			tb.Fatal(err)
		}
	}
	runtime.GC() // or it would go on beside the benchmark
	return store, keys
}

// perSize runs a benchmark at each size, on keys in the order of their creation
// and in random order, where each access misses the processor's caches.
func perSize(b *testing.B, ttl time.Duration, op func(b *testing.B, store *memory.Store, key string)) {
	for _, n := range sizes {
		store, keys := filled(b, n, ttl)
		for _, order := range []string{"sequential", "random"} {
			if order == "random" {
				rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			}
			b.Run(fmt.Sprintf("keys=%d/%s", n, order), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					op(b, store, keys[i])
					if i++; i == n {
						i = 0
					}
				}
			})
		}
		store.Close()
	}
}

func do(b *testing.B, store *memory.Store, cmd kv.Command) {
	if _, err := store.Do(context.Background(), cmd); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkGet(b *testing.B) {
	perSize(b, 0, func(b *testing.B, store *memory.Store, key string) {
		if _, err := store.Get(context.Background(), key, kv.ReadOptions{}); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkGoMap is what the machine's caches and memory let a plain map do,
// for comparison with BenchmarkGet.
func BenchmarkGoMap(b *testing.B) {
	for _, n := range sizes {
		keys, entries := make([]string, n), make(map[string]*kv.Entry, n)
		for i := range keys {
			keys[i] = fmt.Sprintf("bench.%08d", i)
			entries[keys[i]] = &kv.Entry{Key: keys[i], Revision: uint64(i)}
		}
		for _, order := range []string{"sequential", "random"} {
			if order == "random" {
				rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			}
			b.Run(fmt.Sprintf("keys=%d/%s", n, order), func(b *testing.B) {
				i, sum := 0, uint64(0)
				for b.Loop() {
					sum += entries[keys[i]].Revision
					if i++; i == n {
						i = 0
					}
				}
			})
		}
	}
}

func BenchmarkGetWithDeadline(b *testing.B) {
	perSize(b, time.Hour, func(b *testing.B, store *memory.Store, key string) {
		if _, err := store.Get(context.Background(), key, kv.ReadOptions{}); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkOverwrite(b *testing.B) {
	value := string(make([]byte, 128))
	perSize(b, 0, func(b *testing.B, store *memory.Store, key string) {
		do(b, store, kv.Command{Op: kv.OpSet, Key: key, Value: value})
	})
}

// BenchmarkRenew overwrites keys that all have a pending deadline.
func BenchmarkRenew(b *testing.B) {
	value := string(make([]byte, 128))
	perSize(b, time.Hour, func(b *testing.B, store *memory.Store, key string) {
		do(b, store, kv.Command{Op: kv.OpSet, Key: key, Value: value, TTL: time.Hour})
	})
}

func BenchmarkCompareAndSwap(b *testing.B) {
	value := string(make([]byte, 128))
	perSize(b, 0, func(b *testing.B, store *memory.Store, key string) {
		do(b, store, kv.Command{Op: kv.OpCompareAndSwap, Key: key, Value: value, Expect: kv.IfValue(value)})
	})
}

func BenchmarkIncrement(b *testing.B) {
	for _, n := range sizes {
		store, _ := filled(b, n, 0)
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			do(b, store, kv.Command{Op: kv.OpDelete, Key: "counter"})
			for b.Loop() {
				do(b, store, kv.Command{Op: kv.OpIncrement, Key: "counter", Delta: 1})
			}
		})
		store.Close()
	}
}

// BenchmarkCreate deletes a key and creates it anew: the cost of the index.
func BenchmarkCreate(b *testing.B) {
	perSize(b, 0, func(b *testing.B, store *memory.Store, key string) {
		do(b, store, kv.Command{Op: kv.OpDelete, Key: key})
		do(b, store, kv.Command{Op: kv.OpSet, Key: key})
	})
}

func BenchmarkPage(b *testing.B) {
	for _, n := range sizes {
		store, keys := filled(b, n, 0)
		for _, q := range []struct {
			name  string
			query kv.Query
		}{
			{"page of 100", kv.Query{Cursor: keys[n/2], Limit: 100, KeysOnly: true}},
			{"prefix of 100", kv.Query{Prefix: keys[n/2][:len(keys[n/2])-2], KeysOnly: true}},
		} {
			b.Run(fmt.Sprintf("keys=%d/%s", n, q.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := store.Scan(context.Background(), q.query); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		store.Close()
	}
}

// BenchmarkMemoryPerKey reports what a key costs beyond its own size and its
// value's, without the ring of events, which is bounded.
func BenchmarkMemoryPerKey(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		store := memory.New(memory.Options{Limits: kv.Limits{MaxKeys: n}, ReplayEvents: 1})
		size := 0
		for i := range n {
			key, value := fmt.Sprintf("bench.%08d", i), string(make([]byte, 128))
			size += len(key) + len(value)
			do(b, store, kv.Command{Op: kv.OpSet, Key: key, Value: value, TTL: time.Hour})
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(int(after.HeapAlloc-before.HeapAlloc)-size)/n, "overhead-B/key")
		store.Close()
	}
}

// BenchmarkRequestID overwrites keys with request ids, each a new one.
func BenchmarkRequestID(b *testing.B) {
	for _, size := range []int{128, 1 << 20} {
		store, keys := filled(b, 1000, 0)
		value := string(make([]byte, size))
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				do(b, store, kv.Command{Op: kv.OpSet, Key: keys[i%len(keys)], Value: value, RequestID: strconv.Itoa(i)})
				i++
			}
		})
		store.Close()
	}
}

// BenchmarkMemoryPerRequestID reports what a remembered request costs.
func BenchmarkMemoryPerRequestID(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		store := memory.New(memory.Options{ReplayEvents: 1})
		do(b, store, kv.Command{Op: kv.OpSet, Key: "key"})
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range 3 * kv.DefaultRequestIDs {
			do(b, store, kv.Command{Op: kv.OpIncrement, Key: "number", RequestID: fmt.Sprintf("%036d", i)})
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(int(after.HeapAlloc-before.HeapAlloc))/kv.DefaultRequestIDs, "B/request")
		store.Close()
	}
}
