package replicated

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"kvbus/kv"
)

// fullBatch has every field of every message.
func fullBatch() batch {
	b := fullBatch1()
	b.Commands[0].RequestID = "!~"
	b.Commands[1].RequestID = strings.Repeat("i", kv.MaxRequestIDLength)
	b.Commands[7].Limits.MaxRequestIDs, b.Commands[7].Limits.MaxRequestAge = 1, math.MaxInt64
	return b
}

// fullBatch1 has every field that version 1 has.
func fullBatch1() batch {
	return batch{Worker: "worker-1", Number: 300, Base: 298, Commands: []kv.Command{
		{Op: kv.OpSet, Key: "größe", Value: "\x00\xff", TTL: time.Minute, KeepTTL: true,
			Expect: kv.IfRevision(7), Trace: kv.Trace{Parent: "00-ab-cd-01", State: "k=v"}},
		{Op: kv.OpCompareAndSwap, Key: "k", Value: "v", Expect: kv.IfValue("old")},
		{Op: kv.OpCompareAndSwap, Key: "k", Expect: kv.IfAbsent()},
		{Op: kv.OpIncrement, Key: "n", Delta: -3},
		{Op: kv.OpDelete, Key: "k"},
		{Op: kv.OpTouch, Key: "k", TTL: 1},
		{Op: kv.OpClear},
		{Op: kv.OpSetLimits, Limits: kv.Limits{MaxKeys: 1, MaxValueSize: 128, MaxBytes: math.MaxInt64}},
		{Op: kv.OpSetLimits},
		{Op: kv.OpSweep},
	}}
}

// fullRecord is the record of fullBatch in version 2, and fullRecord1 that of
// fullBatch1 in version 1, with an empty trace as it was written then. They never
// change: logs that were written are in them.
const fullRecord = "" +
	"6b76627202b731fdbf0a08776f726b65722d3110ac0218aa022234080112076772c3b6c39f651a0200ff2880b09dc2df" +
	"013001380348075a120a0b30302d61622d63642d303112036b3d766202217e229201080212016b1a0176380242036f6c" +
	"646280016969696969696969696969696969696969696969696969696969696969696969696969696969696969696969" +
	"696969696969696969696969696969696969696969696969696969696969696969696969696969696969696969696969" +
	"6969696969696969696969696969696969696969696969696969696969696969696969692207080212016b3801220708" +
	"0312016e20052205080412016b2207080512016b280122020806221f0807521b080110800118ffffffffffffffff7f20" +
	"0128ffffffffffffffff7f22040807520022020808"

const fullRecord1 = "" +
	"6b76627201fb21bdd10a08776f726b65722d3110ac0218aa022230080112076772c3b6c39f651a0200ff2880b09dc2df" +
	"013001380348075a120a0b30302d61622d63642d303112036b3d76220f080212016b1a0176380242036f6c6422090802" +
	"12016b38015a002207080312016e20052205080412016b2207080512016b28012202080622130807520f080110800118" +
	"ffffffffffffffff7f22040807520022020808"

func TestRecordRoundTrip(t *testing.T) {
	full := fullBatch()
	for _, tt := range []struct {
		name string
		b    batch
	}{
		{"nothing", batch{}},
		{"no commands", batch{Worker: "w", Number: 1, Base: 1}},
		{"every field", full},
		{"extremes", batch{
			Worker: strings.Repeat("\x7f", maxWorkerSize), Number: math.MaxUint64, Base: math.MaxUint64,
			Commands: []kv.Command{
				{Op: kv.OpIncrement, Key: "a", Delta: math.MaxInt64, TTL: math.MaxInt64},
				{Op: kv.OpIncrement, Key: "a", Delta: math.MinInt64},
				{Op: kv.OpDelete, Key: "a", Expect: kv.IfRevision(math.MaxUint64)},
				{Op: kv.OpSet, Key: strings.Repeat("k", kv.MaxKeyLength), Value: strings.Repeat("v", 1<<20)},
			},
		}},
	} {
		data := tt.b.append(nil)
		got, err := decodeBatch(data)
		if err != nil || !reflect.DeepEqual(got, tt.b) {
			t.Errorf("%s: came back as %+v, %v", tt.name, got, err)
		}
		if with := tt.b.append([]byte("before")); string(with) != "before"+string(data) {
			t.Errorf("%s: is another record after other bytes", tt.name)
		}
	}
}

func TestRecordGolden(t *testing.T) {
	full := fullBatch()
	if got := hex.EncodeToString(full.append(nil)); got != fullRecord {
		t.Errorf("the format of version %d changed:\n%s", recordVersion, got)
	}
	for record, want := range map[string]batch{fullRecord: full, fullRecord1: fullBatch1()} {
		data, err := hex.DecodeString(record)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeBatch(data); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("came back as %+v, %v", got, err)
		}
	}
}

// command draws a command that is valid, or would be with a right key.
func command(t *rapid.T) kv.Command {
	text := rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) string { return string(b) })
	cmd := kv.Command{
		Op:      kv.Op(rapid.IntRange(1, int(lastOp)).Draw(t, "op")),
		Key:     text.Draw(t, "key"),
		Value:   text.Draw(t, "value"),
		Delta:   rapid.Int64().Draw(t, "delta"),
		TTL:     time.Duration(rapid.Int64Min(0).Draw(t, "ttl")),
		KeepTTL: rapid.Bool().Draw(t, "keep"),
		Expect: kv.Expectation{
			Kind:     kv.ExpectKind(rapid.IntRange(0, int(lastExpectKind)).Draw(t, "kind")),
			Value:    text.Draw(t, "expected value"),
			Revision: rapid.Uint64().Draw(t, "expected revision"),
		},
	}
	if cmd.Op == kv.OpSetLimits {
		limit := rapid.Int64Min(0)
		cmd.Limits = kv.Limits{
			MaxKeys:      limit.Draw(t, "max keys"),
			MaxValueSize: limit.Draw(t, "max value size"),
			MaxBytes:     limit.Draw(t, "max bytes"),

			MaxRequestIDs: limit.Draw(t, "max request ids"),
			MaxRequestAge: time.Duration(limit.Draw(t, "max request age")),
		}
	}
	if rapid.Bool().Draw(t, "repeatable") {
		cmd.RequestID = text.Draw(t, "request id")
	}
	if rapid.Bool().Draw(t, "traced") {
		cmd.Trace = kv.Trace{Parent: text.Draw(t, "parent"), State: text.Draw(t, "state")}
	}
	return cmd
}

func TestRecordProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := batch{
			Worker:   rapid.StringMatching(`[\x00-\x7f]{0,64}`).Draw(t, "worker"),
			Number:   rapid.Uint64().Draw(t, "number"),
			Base:     rapid.Uint64().Draw(t, "base"),
			Commands: rapid.SliceOfN(rapid.Custom(command), 0, 20).Draw(t, "commands"),
		}
		if len(b.Commands) == 0 {
			b.Commands = nil
		}
		data := b.append(nil)
		got, err := decodeBatch(data)
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Fatalf("came back as %+v, %v", got, err)
		}
		none := b
		none.Commands = nil
		size := len(none.append(nil))
		if size > recordOverhead {
			t.Fatalf("%d bytes without commands, more than the bound", size)
		}
		for i := range b.Commands {
			size += commandSize(&b.Commands[i])
		}
		if size != len(data) {
			t.Fatalf("%d bytes were announced, it has %d", size, len(data))
		}
	})
}

// TestRecordLimitsOfOthers holds because limits are validated with the one
// operation that has them only: what is valid must be readable.
func TestRecordLimitsOfOthers(t *testing.T) {
	b := batch{Commands: []kv.Command{{Op: kv.OpSet, Key: "k", Limits: kv.Limits{MaxKeys: -1}}}}
	if err := b.Commands[0].Validate(); err != nil {
		t.Fatal(err)
	}
	got, err := decodeBatch(b.append(nil))
	if err != nil || got.Commands[0] != (kv.Command{Op: kv.OpSet, Key: "k"}) {
		t.Errorf("came back as %+v, %v", got, err)
	}
}

// TestRecordKnowsAllOperations fails when an operation is added that the
// format has no version for.
func TestRecordKnowsAllOperations(t *testing.T) {
	if next := lastOp + 1; !strings.HasPrefix(next.String(), "Op(") {
		t.Errorf("no version of the format has operation %v", next)
	}
}

func TestRecordDamage(t *testing.T) {
	full := fullBatch()
	data := full.append(nil)
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeBatch(data); !errors.Is(err, errRecord) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
	for n := range len(data) {
		if _, err := decodeBatch(data[:n]); !errors.Is(err, errRecord) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for _, more := range []string{"\x00", "\x10\x01", string(data)} {
		if _, err := decodeBatch(append(slices.Clip(data), more...)); !errors.Is(err, errRecord) {
			t.Errorf("followed by %q: %v", more, err)
		}
	}
}

// sealed puts the header of a record before a body.
func sealed(body string) []byte { return sealedAs(recordVersion, body) }

func sealedAs(version byte, body string) []byte {
	data := append([]byte(recordMagic), version)
	data = binary.LittleEndian.AppendUint32(data, checksum([]byte(body)))
	return append(data, body...)
}

// TestRecordStrict has bodies that are sound but for one thing.
func TestRecordStrict(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{"number twice", "\x10\x01\x10\x02", "field 2 after field 2"},
		{"fields out of order", "\x18\x01\x10\x01", "field 2 after field 3"},
		{"field after the commands", "\x22\x02\x08\x08\x10\x01", "field 2 after field 4"},
		{"unknown field", "\x28\x01", "unknown field 5"},
		{"field 0", "\x00\x01", "field 0 after field 0"},
		{"field beyond int32", "\xf8\xff\xff\xff\xff\x01\x01", "field -1 after field 0"},
		{"zero", "\x10\x00", "field 2 is zero"},
		{"empty text", "\x0a\x00", "field 1 is empty"},
		{"wire type of text", "\x08\x01", "field 1 has wire type 0"},
		{"wire type of number", "\x15\x01\x00\x00\x00", "field 2 has wire type 5"},
		{"group", "\x13\x14", "field 2 has wire type 3"},
		{"reserved wire type", "\x17", "field 2 has wire type 7"},
		{"padded number", "\x10\x81\x00", "overlong"},
		{"padded tag", "\x90\x00\x01", "overlong"},
		{"padded length", "\x0a\x81\x00w", "overlong"},
		{"number beyond 64 bits", "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "overflow"},
		{"truncated number", "\x10\x80", "unexpected EOF"},
		{"number missing", "\x10", "unexpected EOF"},
		{"truncated text", "\x0a\x02w", "field 1 is truncated"},
		{"length beyond all", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01w", "field 1 is truncated"},
		{"long worker", "\x0a\x41" + strings.Repeat("w", 65), "has 65 bytes"},
		{"worker not ASCII", "\x0a\x02\xc3\xa9", "not ASCII"},
		{"command without operation", "\x22\x00", "command 1: it has no operation"},
		{"second command", "\x22\x02\x08\x08\x22\x00", "command 2: it has no operation"},
		{"unknown operation", "\x22\x02\x08\x09", "command 1: field 1 is 9"},
		{"operation beyond a byte", "\x22\x03\x08\x81\x02", "command 1: field 1 is 257"},
		{"unknown field of a command", "\x22\x04\x08\x08\x68\x01", "command 1: unknown field 13"},
		{"negative TTL", "\x22\x10\x08\x01\x12\x01k\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "field 5 is 18446744073709551615"},
		{"boolean of 2", "\x22\x07\x08\x01\x12\x01k\x30\x02", "field 6 is 2"},
		{"unknown expectation", "\x22\x07\x08\x01\x12\x01k\x38\x04", "field 7 is 4"},
		{"limits of a sweep", "\x22\x04\x08\x08\x52\x00", "operation sweep, limits: true"},
		{"no limits", "\x22\x02\x08\x07", "operation set-limits, limits: false"},
		{"negative limit", "\x22\x0f\x08\x07\x52\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "command 1: limits: field 1"},
		{"unknown limit", "\x22\x06\x08\x07\x52\x02\x30\x01", "command 1: limits: unknown field 6"},
		{"negative limit of request ids", "\x22\x0f\x08\x07\x52\x0b\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "command 1: limits: field 4"},
		{"empty request id", "\x22\x04\x08\x08\x62\x00", "command 1: field 12 is empty"},
		{"unknown field of a trace", "\x22\x06\x08\x08\x5a\x02\x18\x01", "command 1: trace: unknown field 3"},
		{"trace beyond its command", "\x22\x04\x08\x08\x5a\x01", "command 1: field 11 is truncated"},
	} {
		if _, err := decodeBatch(sealed(tt.body)); !errors.Is(err, errRecord) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	if _, err := decodeBatch(sealed("\x10\x01\x22\x02\x08\x08")); err != nil {
		t.Errorf("a sound record: %v", err)
	}
	for _, version := range []byte{0, recordVersion + 1, 255} {
		if _, err := decodeBatch(sealedAs(version, "\x10\x01")); !errors.Is(err, errRecord) || !strings.Contains(err.Error(), fmt.Sprintf("version %d ", version)) {
			t.Errorf("a record of version %d: %v", version, err)
		}
	}
}

// TestRecordVersions has records with what came with a version later than
// theirs.
func TestRecordVersions(t *testing.T) {
	for _, tt := range []struct {
		since      byte
		body, want string
	}{
		{2, "\x22\x08\x08\x05\x12\x01k\x62\x01i", "command 1: unknown field 12"},
		{2, "\x22\x06\x08\x07\x52\x02\x20\x01", "command 1: limits: unknown field 4"},
		{2, "\x22\x06\x08\x07\x52\x02\x28\x01", "command 1: limits: unknown field 5"},
	} {
		if _, err := decodeBatch(sealedAs(tt.since, tt.body)); err != nil {
			t.Errorf("%x in version %d: %v", tt.body, tt.since, err)
		}
		if _, err := decodeBatch(sealedAs(tt.since-1, tt.body)); !errors.Is(err, errRecord) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%x in version %d: %v", tt.body, tt.since-1, err)
		}
	}
}

// checkAllocation fails if f allocates out of proportion to size bytes of input.
func checkAllocation(t *testing.T, size int, f func()) {
	// The smallest command has 4 bytes and becomes a kv.Command; one that turns
	// out to be empty has 2. The rest is for the buffers of a reader.
	limit := uint64(int(unsafe.Sizeof(kv.Command{}))/2*size + 1<<20)
	var n uint64
	for range 3 { // what else runs in the process counts too
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		if n = after.TotalAlloc - before.TotalAlloc; n <= limit {
			return
		}
	}
	t.Errorf("%d bytes allocated for %d", n, size)
}

func FuzzDecodeBatch(f *testing.F) {
	full := fullBatch()
	data := full.append(nil)
	f.Add(data)
	f.Add(data[recordHeaderSize:])
	f.Add([]byte("\x10\x01\x22\x02\x08\x08"))
	f.Add(sealedAs(1, "\x10\x01\x22\x02\x08\x08"))
	f.Add([]byte(strings.Repeat("\x22\x00", 1000)))
	f.Fuzz(func(t *testing.T, data []byte) {
		// As it is, and with the header that it would hardly find by chance.
		for _, data := range [][]byte{data, sealed(string(data))} {
			var b batch
			var err error
			checkAllocation(t, len(data), func() { b, err = decodeBatch(data) })
			if err != nil {
				if !errors.Is(err, errRecord) {
					t.Errorf("error %v", err)
				}
				continue
			}
			again := b.append(nil)
			if data[len(recordMagic)] == recordVersion && string(again) != string(data) {
				t.Errorf("%x came back as %x", data, again)
			}
			if b2, err := decodeBatch(again); err != nil || !reflect.DeepEqual(b2, b) {
				t.Errorf("%+v came back as %+v, %v", b, b2, err)
			}
		}
	})
}
