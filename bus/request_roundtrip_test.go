package bus

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"kvbus/kv"
)

// commands are one or more of each that the wire has.
func commands() []kv.Command {
	trace := kv.Trace{Parent: testParent, State: "a=1"}
	return []kv.Command{
		{Op: kv.OpSet, Key: "a", Value: "v"},
		{Op: kv.OpSet, Key: "a..b", Value: "\x00\xff\r\n", TTL: 1500 * time.Microsecond, Expect: kv.IfRevision(3), Trace: trace},
		{Op: kv.OpSet, Key: "größe", TTL: math.MaxInt64, KeepTTL: true, Expect: kv.IfRevision(0)},
		{Op: kv.OpCompareAndSwap, Key: ".", Value: "v", Expect: kv.IfAbsent()},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfRevision(math.MaxUint64), TTL: 1},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfValue("plain text"), Trace: kv.Trace{Parent: testParent}},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "", Expect: kv.IfValue("")},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfValue(" space ")},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfValue("ends with\t")},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfValue("two\r\nlines")},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfValue("größe")},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfValue("\x00\xff")},
		{Op: kv.OpCompareAndSwap, Key: "a", Value: "v", Expect: kv.IfValue(strings.Repeat("long", 1000))},
		{Op: kv.OpIncrement, Key: "a", Delta: math.MinInt64, TTL: time.Minute, KeepTTL: true},
		{Op: kv.OpIncrement, Key: "a", Delta: 0},
		{Op: kv.OpDelete, Key: "a"},
		{Op: kv.OpDelete, Key: "a", Expect: kv.IfRevision(3)},
		{Op: kv.OpTouch, Key: "a", TTL: 90 * time.Second},
		{Op: kv.OpTouch, Key: "a"},
		{Op: kv.OpClear},
		{Op: kv.OpClear, Key: "user."},
		{Op: kv.OpSet, Key: "a", Value: "v", RequestID: "!\"~", Trace: trace},
		{Op: kv.OpIncrement, Key: "a", Delta: 1, RequestID: strings.Repeat("i", kv.MaxRequestIDLength)},
		{Op: kv.OpDelete, Key: "a", RequestID: "1"},
		{Op: kv.OpTouch, Key: "a", RequestID: "1"},
		{Op: kv.OpClear, RequestID: "1"},
	}
}

func TestCommandRoundTrip(t *testing.T) {
	s := testSubjects(t)
	for _, cmd := range commands() {
		m, err := s.EncodeCommand(cmd)
		if err != nil {
			t.Errorf("%+v: %v", cmd, err)
			continue
		}
		back, err := s.DecodeCommand(opOf(cmd.Op), m.Subject, m.Header, m.Data)
		if err != nil || !reflect.DeepEqual(back, cmd) {
			t.Errorf("%+v came back as %+v, %v", cmd, back, err)
		}
	}
}

func TestEncodeCommandRefuses(t *testing.T) {
	s := testSubjects(t)
	for _, tt := range []struct {
		cmd  kv.Command
		want error
	}{
		{kv.Command{Op: kv.OpSweep}, errors.ErrUnsupported},
		{kv.Command{Op: kv.OpSetLimits}, errors.ErrUnsupported},
		{kv.Command{}, kv.ErrInvalidArgument},
		{kv.Command{Op: kv.OpSet}, kv.ErrInvalidKey},
		{kv.Command{Op: kv.OpSet, Key: "a*"}, kv.ErrInvalidKey},
		{kv.Command{Op: kv.OpSet, Key: "a", TTL: -1}, kv.ErrInvalidArgument},
		{kv.Command{Op: kv.OpSet, Key: "a", Expect: kv.IfValue("x")}, kv.ErrInvalidArgument},
		{kv.Command{Op: kv.OpCompareAndSwap, Key: "a"}, kv.ErrInvalidArgument},
		{kv.Command{Op: kv.OpSet, Key: "a", RequestID: "a b"}, kv.ErrInvalidArgument},
	} {
		if m, err := s.EncodeCommand(tt.cmd); !errors.Is(err, tt.want) || m != nil {
			t.Errorf("%+v: %v, want %v", tt.cmd, err, tt.want)
		}
	}
}

func TestEncodeReadRefuses(t *testing.T) {
	s := testSubjects(t)
	read := func(op Op, key string, opts kv.ReadOptions) error { _, err := s.EncodeRead(op, key, opts); return err }
	scan := func(q kv.Query) error { _, err := s.EncodeScan(q); return err }
	replay := func(q kv.ReplayQuery) error { _, err := s.EncodeReplay(q); return err }
	unknown := kv.ReadOptions{Consistency: kv.Eventual + 1}
	for name, tt := range map[string]struct{ err, want error }{
		"a set is no read":            {read(OpSet, "a", kv.ReadOptions{}), kv.ErrInvalidArgument},
		"a scan is no read of a key":  {read(OpScan, "a", kv.ReadOptions{}), kv.ErrInvalidArgument},
		"get of no key":               {read(OpGet, "", kv.ReadOptions{}), kv.ErrInvalidKey},
		"get, unknown consistency":    {read(OpGet, "a", unknown), kv.ErrInvalidArgument},
		"scan of no prefix":           {scan(kv.Query{Prefix: "*"}), kv.ErrInvalidKey},
		"scan of less than nothing":   {scan(kv.Query{Limit: -1}), kv.ErrInvalidArgument},
		"scan, unknown consistency":   {scan(kv.Query{ReadOptions: unknown}), kv.ErrInvalidArgument},
		"replay of no prefix":         {replay(kv.ReplayQuery{Prefix: "*"}), kv.ErrInvalidKey},
		"replay of less than nothing": {replay(kv.ReplayQuery{Limit: -1}), kv.ErrInvalidArgument},
		"replay, unknown consistency": {replay(kv.ReplayQuery{ReadOptions: unknown}), kv.ErrInvalidArgument},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", name, tt.err, tt.want)
		}
	}
}

func TestReadRoundTrip(t *testing.T) {
	s := testSubjects(t)
	opts := []kv.ReadOptions{{}, {Consistency: kv.Linearizable}, {Consistency: kv.Eventual, MinRevision: 7}}
	for _, opts := range opts {
		for _, op := range []Op{OpGet, OpExists, OpTTL} {
			m, err := s.EncodeRead(op, "a..b", opts)
			if err != nil {
				t.Fatal(err)
			}
			if key, back, err := s.DecodeRead(op, m.Subject, m.Header); err != nil || key != "a..b" || back != opts {
				t.Errorf("%v %+v came back as %q, %+v, %v", op, opts, key, back, err)
			}
		}
		for _, q := range []kv.Query{
			{}, {KeysOnly: true}, {Prefix: "user.", Limit: 5, Cursor: "user.7\r\n", Filter: mustFilter(t, "*.=.>")},
		} {
			q.ReadOptions = opts
			m, err := s.EncodeQuery(q)
			if err != nil {
				t.Fatal(err)
			}
			op := OpScan
			if q.KeysOnly {
				op = OpKeys
			}
			if back, err := s.DecodeQuery(op, m.Subject, m.Header); err != nil || back != q {
				t.Errorf("%+v came back as %+v, %v", q, back, err)
			}
			if m, err = s.EncodeScan(q); err != nil {
				t.Fatal(err)
			}
			if back, err := s.DecodeQuery(OpScan, m.Subject, m.Header); err != nil || back != q {
				t.Errorf("scan %+v came back as %+v, %v", q, back, err)
			}
		}
		m, err := s.EncodeInfo(opts)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeInfoRequest(m.Header); err != nil || back != opts {
			t.Errorf("info %+v came back as %+v, %v", opts, back, err)
		}
		for _, q := range []kv.ReplayQuery{{}, {After: math.MaxUint64, Prefix: ".", Limit: 1, Filter: mustFilter(t, "a")}} {
			q.ReadOptions = opts
			m, err := s.EncodeReplay(q)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := s.DecodeReplay(m.Subject, m.Header); err != nil || back != q {
				t.Errorf("%+v came back as %+v, %v", q, back, err)
			}
		}
	}
	if m, err := s.EncodeRead(OpGet, "a", kv.ReadOptions{Consistency: 9}); !errors.Is(err, kv.ErrInvalidArgument) || m != nil {
		t.Errorf("unknown consistency: %v", err)
	}
	if m, err := s.EncodeQuery(kv.Query{Limit: -1}); !errors.Is(err, kv.ErrInvalidArgument) || m != nil {
		t.Errorf("negative limit: %v", err)
	}
}

// FuzzDecodeRequest feeds every decoder. What decodes is valid and survives
// another trip; what does not is nothing and one of the two client errors.
func FuzzDecodeRequest(f *testing.F) {
	f.Add(uint8(OpSet), "a", "KV-TTL", "90s", "kv-keep-ttl", "true", []byte("v"))
	f.Add(uint8(OpCompareAndSwap), "a.=.b", "KV-Expected-Length", "2", "traceparent", testParent, []byte("old"))
	f.Add(uint8(OpTouch), "a", "tracestate", "a=1", "traceparent", testParent, []byte("90"))
	f.Add(uint8(OpKeys), "user.=", "KV-Limit", "3", "KV-Filter", "user.*", []byte(nil))
	f.Add(uint8(OpReplay), "=", "KV-From-Revision", "3", "KV-Cursor", "4", []byte(nil))
	f.Add(uint8(OpClear), "", "KV-Filter", "x", "", "", []byte(nil))
	f.Add(uint8(OpInfo), "", "KV-Consistency", "eventual", "KV-Min-Revision ", "1", []byte(nil))
	s := testSubjects(f)
	f.Fuzz(func(t *testing.T, o uint8, tail, name1, value1, name2, value2 string, body []byte) {
		op := Op(o % uint8(len(opSpecs)+1))
		subject := "team.kv." + op.String()
		if tail != "" {
			subject += "." + tail
		}
		header := h(name1, value1, name2, value2)

		var err error
		var half bool
		switch {
		case op.Writes():
			var cmd kv.Command
			if cmd, err = s.DecodeCommand(op, subject, header, body); err != nil {
				half = cmd != kv.Command{}
				break
			}
			if err := cmd.Validate(); err != nil {
				t.Fatalf("%v %q %v %q decoded to %+v: %v", op, subject, header, body, cmd, err)
			}
			m, err := s.EncodeCommand(cmd)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := s.DecodeCommand(op, m.Subject, m.Header, m.Data); err != nil || !reflect.DeepEqual(back, cmd) {
				t.Fatalf("%+v came back as %+v, %v", cmd, back, err)
			}
		case op == OpKeys || op == OpScan:
			var q kv.Query
			if q, err = s.DecodeQuery(op, subject, header); err != nil {
				half = q != kv.Query{}
				break
			}
			m, err := s.EncodeQuery(q)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := s.DecodeQuery(op, m.Subject, m.Header); err != nil || back != q {
				t.Fatalf("%+v came back as %+v, %v", q, back, err)
			}
		case op == OpReplay:
			var q kv.ReplayQuery
			if q, err = s.DecodeReplay(subject, header); err != nil {
				half = q != kv.ReplayQuery{}
				break
			}
			m, err := s.EncodeReplay(q)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := s.DecodeReplay(m.Subject, m.Header); err != nil || back != q {
				t.Fatalf("%+v came back as %+v, %v", q, back, err)
			}
		case op == OpInfo:
			var opts kv.ReadOptions
			if opts, err = DecodeInfoRequest(header); err != nil {
				half = opts != kv.ReadOptions{}
				break
			}
			m, err := s.EncodeInfo(opts)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := DecodeInfoRequest(m.Header); err != nil || back != opts {
				t.Fatalf("%+v came back as %+v, %v", opts, back, err)
			}
		default:
			var key string
			var opts kv.ReadOptions
			if key, opts, err = s.DecodeRead(op, subject, header); err != nil {
				half = key != "" || opts != kv.ReadOptions{}
			}
		}
		if half {
			t.Fatalf("%v %q %v: half a request with %v", op, subject, header, err)
		}
		if err != nil && !errors.Is(err, kv.ErrInvalidKey) && !errors.Is(err, kv.ErrInvalidArgument) {
			t.Fatalf("%v %q %v: %v", op, subject, header, err)
		}
	})
}
