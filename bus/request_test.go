package bus

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

func mustFilter(tb testing.TB, pattern string) kv.Filter {
	tb.Helper()
	f, err := kv.ParseFilter(pattern)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// h makes headers of name, value, name, value.
func h(pairs ...string) nats.Header {
	header := nats.Header{}
	for i := 0; i < len(pairs); i += 2 {
		header.Add(pairs[i], pairs[i+1])
	}
	return header
}

func TestDecodeCommand(t *testing.T) {
	s := testSubjects(t)
	for _, tt := range []struct {
		op     Op
		header nats.Header
		body   string
		want   kv.Command
	}{
		{OpSet, nil, "v", kv.Command{Value: "v"}},
		{OpSet, nil, "", kv.Command{}},
		{OpSet, h("KV-TTL", "90s"), "v", kv.Command{Value: "v", TTL: 90 * time.Second}},
		{OpSet, h("kv-ttl", "\t90 "), "v", kv.Command{Value: "v", TTL: 90 * time.Second}},
		{OpSet, h("KV-TTL", "never"), "v", kv.Command{Value: "v"}},
		{OpSet, h("KV-TTL", "1", "KV-Keep-TTL", "true"), "v", kv.Command{Value: "v", TTL: time.Second, KeepTTL: true}},
		{OpSet, h("KV-Keep-TTL", "false"), "v", kv.Command{Value: "v"}},
		{OpSet, h("KV-Expected-Revision", "7"), "v", kv.Command{Value: "v", Expect: kv.IfRevision(7)}},
		{OpSet, h("KV-Expected-Revision", "0"), "v", kv.Command{Value: "v", Expect: kv.IfRevision(0)}},
		{OpSet, h("Unknown", "1", "Unknown", "2", "KV-Limit", "x", "KV-Filter", "..", "KV-Revision", "x"), "v", kv.Command{Value: "v"}},
		{OpSet, nats.Header{"KV-TTL": {}}, "v", kv.Command{Value: "v"}},
		{OpSet, h(" traceparent", testParent, "KV-Limit ", "x"), "v", kv.Command{Value: "v"}},
		{OpCompareAndSwap, nil, "v", kv.Command{Value: "v", Expect: kv.IfAbsent()}},
		{OpCompareAndSwap, h("KV-Expected", " old "), "v", kv.Command{Value: "v", Expect: kv.IfValue(" old ")}},
		{OpCompareAndSwap, h("KV-Expected", ""), "v", kv.Command{Value: "v", Expect: kv.IfValue("")}},
		{OpCompareAndSwap, h("KV-Expected-Length", "3"), "oldnew", kv.Command{Value: "new", Expect: kv.IfValue("old")}},
		{OpCompareAndSwap, h("KV-Expected-Length", "0"), "new", kv.Command{Value: "new", Expect: kv.IfValue("")}},
		{OpCompareAndSwap, h("KV-Expected-Length", "3"), "old", kv.Command{Expect: kv.IfValue("old")}},
		{OpCompareAndSwap, h("KV-Expected-Revision", "18446744073709551615"), "v", kv.Command{Value: "v", Expect: kv.IfRevision(math.MaxUint64)}},
		{OpIncrement, nil, "", kv.Command{Delta: 1}},
		{OpIncrement, h("KV-TTL", "60", "KV-Keep-TTL", "true"), "-5", kv.Command{Delta: -5, TTL: time.Minute, KeepTTL: true}},
		{OpDelete, nil, "ignored", kv.Command{}},
		{OpDelete, h("KV-Expected-Revision", "7", "KV-TTL", "x"), "", kv.Command{Expect: kv.IfRevision(7)}},
		{OpSet, h("kv-request-id", " !a~ "), "v", kv.Command{Value: "v", RequestID: "!a~"}},
		{OpCompareAndSwap, h("KV-Request-Id", "1"), "v", kv.Command{Value: "v", Expect: kv.IfAbsent(), RequestID: "1"}},
		{OpIncrement, h("KV-Request-Id", strings.Repeat("x", 128)), "", kv.Command{Delta: 1, RequestID: strings.Repeat("x", 128)}},
		{OpDelete, h("KV-Request-Id", "1"), "", kv.Command{RequestID: "1"}},
		{OpTouch, h("KV-Request-Id", "1"), "90", kv.Command{TTL: 90 * time.Second, RequestID: "1"}},
		{OpClear, h("KV-Request-Id", "1"), "", kv.Command{RequestID: "1"}},
		{OpTouch, nil, "90s", kv.Command{TTL: 90 * time.Second}},
		{OpTouch, nil, "90", kv.Command{TTL: 90 * time.Second}},
		{OpTouch, h("KV-TTL", "1s"), "never", kv.Command{}},
		{OpClear, nil, "ignored", kv.Command{}},
		{OpClear, h("KV-TTL", "x"), "", kv.Command{}},
	} {
		tt.want.Op, tt.want.Key = tt.op.spec().command, "a..b"
		got, err := s.DecodeCommand(tt.op, "team.kv."+tt.op.String()+".a.=.b", tt.header, []byte(tt.body))
		if err != nil || got != tt.want {
			t.Errorf("%v %v %q = %+v, %v; want %+v", tt.op, tt.header, tt.body, got, err, tt.want)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%v %v %q: %v", tt.op, tt.header, tt.body, err)
		}
	}
}

// A value must not keep alive the headers that came in the same block of memory, also
// where they turned out to be none.
func TestDecodedValueIsACopyWhereThereAreHeaders(t *testing.T) {
	s := testSubjects(t)
	for _, header := range []nats.Header{{}, h("KV-TTL", "90s")} {
		body := []byte("value")
		cmd, err := s.DecodeCommand(OpSet, "team.kv.set.k", header, body)
		if err != nil {
			t.Fatal(err)
		}
		clear(body)
		if cmd.Value != "value" {
			t.Errorf("with headers %v the value shares the memory of the body", header)
		}
	}
}

func TestDecodeCommandRefuses(t *testing.T) {
	s := testSubjects(t)
	for _, tt := range []struct {
		op     Op
		header nats.Header
		body   string
		names  string // what the error says
	}{
		{OpSet, h("KV-TTL", ""), "v", "KV-TTL"},
		{OpSet, h("KV-TTL", "0"), "v", "KV-TTL"},
		{OpSet, h("KV-TTL", "-1s"), "v", "KV-TTL"},
		{OpSet, h("KV-TTL", "1s", "KV-TTL", "1s"), "v", "KV-TTL"},
		{OpSet, h("KV-TTL", "1s", "kv-ttl", "1s"), "v", "KV-TTL"},
		{OpSet, h("KV-TTL ", "1s"), "v", "KV-TTL"},
		{OpSet, h("\tkv-expected-revision", "1"), "v", "KV-Expected-Revision"},
		{OpIncrement, h("KV-Expected ", "1"), "", "KV-Expected"},
		{OpClear, h(" KV-Filter", "*.tmp"), "", "KV-Filter"},
		{OpSet, h("KV-Keep-TTL", "yes"), "v", "KV-Keep-TTL"},
		{OpSet, h("KV-Keep-TTL", ""), "v", "KV-Keep-TTL"},
		{OpSet, h("KV-Expected", "x"), "v", "KV-Expected"},
		{OpSet, h("KV-Expected-Length", "0"), "v", "KV-Expected-Length"},
		{OpSet, h("KV-Expected-Revision", "-1"), "v", "KV-Expected-Revision"},
		{OpSet, h("KV-Expected-Revision", "+1"), "v", "KV-Expected-Revision"},
		{OpSet, h("KV-Expected-Revision", ""), "v", "KV-Expected-Revision"},
		{OpSet, h("KV-Expected-Revision", "18446744073709551616"), "v", "KV-Expected-Revision"},
		{OpDelete, h("kv-expected", "x"), "", "KV-Expected"},
		{OpDelete, h("KV-Expected-Length", "1"), "x", "KV-Expected-Length"},
		{OpCompareAndSwap, h("KV-Expected", "x", "KV-Expected-Revision", "1"), "v", "KV-Expected"},
		{OpCompareAndSwap, h("KV-Expected", "x", "KV-Expected-Length", "1"), "v", "KV-Expected-Length"},
		{OpCompareAndSwap, h("KV-Expected", "x", "KV-Expected", "x"), "v", "KV-Expected"},
		{OpCompareAndSwap, h("KV-Expected-Length", "2"), "v", "KV-Expected-Length"},
		{OpCompareAndSwap, h("KV-Expected-Length", "-1"), "v", "KV-Expected-Length"},
		{OpCompareAndSwap, h("KV-Expected-Length", "18446744073709551615"), "v", "KV-Expected-Length"},
		{OpIncrement, h("KV-Expected-Revision", "1"), "", "KV-Expected-Revision"},
		{OpIncrement, nil, "1.5", "body"},
		{OpIncrement, h("KV-Request-Id", ""), "", "KV-Request-Id"},
		{OpSet, h("KV-Request-Id", "a b"), "", "KV-Request-Id"},
		{OpSet, h("KV-Request-Id", "ä"), "", "KV-Request-Id"},
		{OpSet, h("KV-Request-Id", "a\x7f"), "", "KV-Request-Id"},
		{OpDelete, h("KV-Request-Id", strings.Repeat("x", 129)), "", "KV-Request-Id"},
		{OpClear, h("KV-Request-Id", "1", "kv-request-id", "1"), "", "KV-Request-Id"},
		{OpTouch, h("KV-Expected", "1"), "1s", "KV-Expected"},
		{OpTouch, nil, "", "body"},
		{OpTouch, nil, "90s\n", "body"},
		{OpTouch, nil, "0", "body"},
		{OpClear, h("KV-Expected-Revision", "1"), "", "KV-Expected-Revision"},
		{OpClear, h("KV-Filter", "*.tmp"), "", "KV-Filter"},
		{OpClear, h("KV-Limit", "1"), "", "KV-Limit"},
		{OpClear, h("KV-Cursor", ""), "", "KV-Cursor"},
		{OpGet, nil, "", "get"},
	} {
		got, err := s.DecodeCommand(tt.op, "team.kv."+tt.op.String()+".k", tt.header, []byte(tt.body))
		if !errors.Is(err, kv.ErrInvalidArgument) || got != (kv.Command{}) {
			t.Errorf("%v %v %q = %+v, %v; want ErrInvalidArgument", tt.op, tt.header, tt.body, got, err)
			continue
		}
		if !strings.Contains(err.Error(), tt.names) {
			t.Errorf("%v %v %q: %q does not name %s", tt.op, tt.header, tt.body, err, tt.names)
		}
	}
	if _, err := s.DecodeCommand(OpSet, "team.kv.set.a.*", h("KV-TTL", "x"), nil); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("wildcard in a key: %v", err)
	}
}

func TestDecodeRead(t *testing.T) {
	s := testSubjects(t)
	for _, op := range []Op{OpGet, OpExists, OpTTL} {
		subject := "team.kv." + op.String() + ".a"
		for _, tt := range []struct {
			header nats.Header
			want   kv.ReadOptions
		}{
			{nil, kv.ReadOptions{}},
			{h("KV-TTL", "x", "KV-Expected", "x", "KV-Limit", "0"), kv.ReadOptions{}},
			{h("KV-Min-Revisions", "x", strings.Repeat("K", len(headersOfLength)), "x", strings.Repeat("K", 100), "x", "", "x"), kv.ReadOptions{}},
			{h("KV-Consistency", "linearizable"), kv.ReadOptions{Consistency: kv.Linearizable}},
			{h("KV-CONSISTENCY", "eventual", "KV-Min-Revision", "9"), kv.ReadOptions{Consistency: kv.Eventual, MinRevision: 9}},
		} {
			if key, opts, err := s.DecodeRead(op, subject, tt.header); err != nil || key != "a" || opts != tt.want {
				t.Errorf("%v %v = %q, %+v, %v", op, tt.header, key, opts, err)
			}
		}
		for _, header := range []nats.Header{
			h("KV-Consistency", "strong"), h("KV-Consistency", ""), h("KV-Consistency", "Eventual"), h("KV-Min-Revision", "x"),
			h("KV-Min-Revision", "1", "kv-min-revision", "1"),
		} {
			if _, _, err := s.DecodeRead(op, subject, header); !errors.Is(err, kv.ErrInvalidArgument) {
				t.Errorf("%v %v: %v", op, header, err)
			}
		}
	}
	if _, _, err := s.DecodeRead(OpSet, "team.kv.set.a", nil); !errors.Is(err, kv.ErrInvalidArgument) {
		t.Errorf("a set is no read: %v", err)
	}
	if _, _, err := s.DecodeRead(OpGet, "team.kv.get.a.*", nil); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("wildcard in a key: %v", err)
	}
}

func TestDecodeQuery(t *testing.T) {
	s := testSubjects(t)
	for _, tt := range []struct {
		tail   string
		header nats.Header
		want   kv.Query
	}{
		{"", nil, kv.Query{}},
		{".user.=", nil, kv.Query{Prefix: "user."}},
		{".user", h("KV-Limit", "5", "KV-Filter", "user.*"), kv.Query{Prefix: "user", Limit: 5, Filter: mustFilter(t, "user.*")}},
		{"", h("KV-Cursor", "", "KV-Filter", ""), kv.Query{}},
		{"", h("KV-Cursor", formatCursor("a")), kv.Query{Cursor: "a"}},
		{"", h("KV-From-Revision", "x", "KV-TTL", "x", "KV-Expected", ""), kv.Query{}},
	} {
		for _, op := range []Op{OpKeys, OpScan} {
			tt.want.KeysOnly = op == OpKeys
			if got, err := s.DecodeQuery(op, "team.kv."+op.String()+tt.tail, tt.header); err != nil || got != tt.want {
				t.Errorf("%v%s %v = %+v, %v", op, tt.tail, tt.header, got, err)
			}
		}
	}
	for flag, want := range map[string]bool{"true": true, "false": false} {
		got, err := s.DecodeQuery(OpScan, "team.kv.scan", h("KV-Keys-Only", flag))
		if err != nil || got != (kv.Query{KeysOnly: want}) {
			t.Errorf("a scan with keys only %s = %+v, %v", flag, got, err)
		}
	}
	for _, header := range []nats.Header{
		h("KV-Keys-Only", "1"), h("KV-Keys-Only", ""),
		h("KV-Limit", "0"), h("KV-Limit", "-1"), h("KV-Limit", ""), h("KV-Limit", "99999999999999999999"), h("KV-Limit", "1", "KV-limit", "1"),
		h("KV-Filter", "a..b"), h("KV-Filter", ">.a"), h("KV-Filter", "a b"), h("KV-Cursor", "??"), h("KV-Consistency", "x"),
	} {
		got, err := s.DecodeQuery(OpScan, "team.kv.scan", header)
		if !errors.Is(err, kv.ErrInvalidArgument) || got != (kv.Query{}) {
			t.Errorf("%v = %+v, %v", header, got, err)
		}
	}
	if _, err := s.DecodeQuery(OpGet, "team.kv.get.a", nil); !errors.Is(err, kv.ErrInvalidArgument) {
		t.Errorf("a get is no query: %v", err)
	}
}

func TestDecodeReplay(t *testing.T) {
	s := testSubjects(t)
	for _, tt := range []struct {
		tail   string
		header nats.Header
		want   kv.ReplayQuery
	}{
		{"", nil, kv.ReplayQuery{}},
		{".user.=", h("KV-From-Revision", "7", "KV-Limit", "5", "KV-Filter", "*.*"), kv.ReplayQuery{Prefix: "user.", After: 7, Limit: 5, Filter: mustFilter(t, "*.*")}},
		{"", h("KV-From-Revision", "7", "KV-Cursor", "9"), kv.ReplayQuery{After: 9}},
		{"", h("KV-From-Revision", "7", "KV-Cursor", ""), kv.ReplayQuery{After: 7}},
		{"", h("KV-Consistency", "eventual"), kv.ReplayQuery{ReadOptions: kv.ReadOptions{Consistency: kv.Eventual}}},
	} {
		if got, err := s.DecodeReplay("team.kv.replay"+tt.tail, tt.header); err != nil || got != tt.want {
			t.Errorf("%s %v = %+v, %v", tt.tail, tt.header, got, err)
		}
	}
	for _, header := range []nats.Header{
		h("KV-From-Revision", ""), h("KV-From-Revision", "x"), h("KV-From-Revision", "-1"), h("KV-Cursor", "x"), h("KV-Limit", "0"),
		h("KV-Limit", "1", "kv-limit", "1"), h("KV-Filter", "a..b"), h("KV-Consistency", "x"), h("KV-Min-Revision", "x"),
	} {
		if got, err := s.DecodeReplay("team.kv.replay", header); !errors.Is(err, kv.ErrInvalidArgument) {
			t.Errorf("%v = %+v, %v", header, got, err)
		}
	}
	if _, err := s.DecodeReplay("team.kv.replay.a.*", nil); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("wildcard in a prefix: %v", err)
	}
}

// What is handed on has all that the protocol knows as it came, and nothing else.
func TestRelayHeader(t *testing.T) {
	for _, tt := range []struct {
		header, want nats.Header
		err          error
	}{
		{nil, nats.Header{}, nil},
		{h("kv-TTL", "1s", "x y", "1", "KV-Expected", "a b"), h("kv-TTL", "1s", "KV-Expected", "a b"), nil},
		{h("KV-TTL", " 1s "), h("KV-TTL", " 1s "), nil},
		{h("KV-TTL", "1s", "KV-TTL", "2s"), nil, kv.ErrInvalidArgument},
		{h("KV-TTL ", "1s"), nil, kv.ErrInvalidArgument},
		{h("KV-Expected", " a"), nil, kv.ErrUnavailable},
		{h("KV-Expected", "a\t"), nil, kv.ErrUnavailable},
		{h("kv-expected", "a\rb"), nil, kv.ErrUnavailable},
	} {
		got, err := RelayHeader(OpCompareAndSwap, tt.header)
		if !errors.Is(err, tt.err) || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %q, %v; want %q, %v", tt.header, got, err, tt.want, tt.err)
		}
	}
}
