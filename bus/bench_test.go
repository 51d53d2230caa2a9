package bus

import (
	"testing"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

func BenchmarkDecodeGet(b *testing.B) {
	s := testSubjects(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.DecodeRead(OpGet, "team.kv.get.user.42.name", nil); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkDecodeSet(b *testing.B, header nats.Header) {
	s := testSubjects(b)
	body := make([]byte, 128)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.DecodeCommand(OpSet, "team.kv.set.user.42.name", header, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeSet(b *testing.B)      { benchmarkDecodeSet(b, nil) }
func BenchmarkDecodeSetTTL(b *testing.B)   { benchmarkDecodeSet(b, nats.Header{"KV-TTL": {"90s"}}) }
func BenchmarkDecodeSetLower(b *testing.B) { benchmarkDecodeSet(b, nats.Header{"kv-ttl": {"90s"}}) }
func BenchmarkDecodeSetTraced(b *testing.B) {
	benchmarkDecodeSet(b, nats.Header{"traceparent": {testParent}})
}

func BenchmarkEncodeGetReply(b *testing.B) {
	var e Encoder
	entry := kv.Entry{Key: "user.42.name", Value: "somebody", Revision: 1_234_567, ExpiresAt: testDeadline}
	b.ReportAllocs()
	for b.Loop() {
		e.Value(entry)
	}
}

func BenchmarkEncodeSetReply(b *testing.B) {
	var e Encoder
	result := kv.Result{Applied: true, Revision: 1_234_567}
	b.ReportAllocs()
	for b.Loop() {
		e.Result(OpSet, result)
	}
}

func BenchmarkEncodeEvent(b *testing.B) {
	s := testSubjects(b)
	var e Encoder
	b.ReportAllocs()
	for b.Loop() {
		e.Event(s, events[1])
	}
}

func BenchmarkDecodeEvent(b *testing.B) {
	s := testSubjects(b)
	var e Encoder
	m := e.Event(s, events[1])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.DecodeEvent(m); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSteadyStateAllocations(t *testing.T) {
	s := testSubjects(t)
	var e Encoder
	body, delta := []byte("value"), []byte("10")
	for _, tt := range []struct {
		name string
		want float64
		f    func()
	}{
		{"decode get", 0, func() { _, _, _ = s.DecodeRead(OpGet, "team.kv.get.a.b", nil) }},
		{"decode set", 0, func() { _, _ = s.DecodeCommand(OpSet, "team.kv.set.a.b", nil, body) }},
		{"decode incr", 0, func() { _, _ = s.DecodeCommand(OpIncrement, "team.kv.incr.a.b", nil, delta) }},
		{"encode get reply", 0, func() { e.Value(entries[2]) }},
		{"encode set reply", 0, func() { e.Result(OpSet, kv.Result{Applied: true, Revision: 1_234_567}) }},
		{"encode event", 0, func() { e.Event(s, events[1]) }},
	} {
		if got := testing.AllocsPerRun(100, tt.f); got > tt.want {
			t.Errorf("%s: %v allocations, want %v", tt.name, got, tt.want)
		}
	}
}
