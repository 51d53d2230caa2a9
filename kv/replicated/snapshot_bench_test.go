package replicated

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"testing"

	"kvbus/kv"
)

const benchEntries = 1_000_000

// manyEntries makes its keys beforehand, so that they are not measured.
func manyEntries() (snapshotHeader, iter.Seq[kv.Entry]) {
	keys := make([]string, benchEntries)
	for i := range keys {
		keys[i] = fmt.Sprintf("sensor.%07d", i)
	}
	value := strings.Repeat("v", 128)
	return snapshotHeader{Keys: benchEntries, Revision: benchEntries}, func(yield func(kv.Entry) bool) {
		for i, key := range keys {
			if !yield(kv.Entry{Key: key, Value: value, Revision: uint64(i + 1)}) {
				return
			}
		}
	}
}

func BenchmarkWriteSnapshot(b *testing.B) {
	h, entries := manyEntries()
	b.ReportAllocs()
	for b.Loop() {
		if err := writeSnapshot(io.Discard, h, entries); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadSnapshot(b *testing.B) {
	h, entries := manyEntries()
	var w bytes.Buffer
	if err := writeSnapshot(&w, h, entries); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(w.Len()))
	b.ReportAllocs()
	for b.Loop() {
		_, entries, err := readSnapshot(bytes.NewReader(w.Bytes()))
		if err != nil {
			b.Fatal(err)
		}
		for e, err := range entries {
			if err != nil {
				b.Fatal(err)
			}
			runtime.KeepAlive(e)
		}
	}
}
