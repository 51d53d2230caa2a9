package replicated

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"kvbus/kv"
)

// sets returns a batch of n sets of values of size bytes.
func sets(n, size int) batch {
	b := batch{Worker: "2LzKQb0qWvT4rXcYh8nEfA", Number: 123_456, Base: 123_450}
	for i := range n {
		b.Commands = append(b.Commands, kv.Command{
			Op: kv.OpSet, Key: fmt.Sprintf("sensor.%06d", i), Value: strings.Repeat("v", size),
		})
	}
	return b
}

func BenchmarkBatchAppend(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("sets=%d", n), func(b *testing.B) {
			batch := sets(n, 128)
			data := batch.append(nil)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				data = batch.append(data[:0])
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/command")
			b.ReportMetric(float64(len(data))/float64(n), "bytes/command")
		})
	}
}

func BenchmarkCommandSize(b *testing.B) {
	batch := sets(1, 128)
	for b.Loop() {
		commandSize(&batch.Commands[0])
	}
}

func BenchmarkDecodeBatch(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("sets=%d", n), func(b *testing.B) {
			batch := sets(n, 128)
			data := batch.append(nil)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				got, err := decodeBatch(data)
				if err != nil {
					b.Fatal(err)
				}
				runtime.KeepAlive(got)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/command")
		})
	}
}
