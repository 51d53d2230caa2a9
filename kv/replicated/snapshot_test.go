package replicated

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// fullSnapshot has every field of every message.
func fullSnapshot() (snapshotHeader, []kv.Entry) {
	h, entries := fullSnapshot1()
	h.Limits.MaxRequestIDs, h.Limits.MaxRequestAge = 100, math.MaxInt64
	h.Requests = []machine.Request{
		{ID: machine.Digest{1}, Content: machine.Digest{15: 2}},
		{
			ID: machine.Digest{3}, Content: machine.Digest{4}, Time: 1_900_000_000_000_000_000,
			Revision: 42, Deadline: math.MaxInt64, Number: math.MinInt64, Applied: true,
		},
		{ID: machine.Digest{5}, Content: machine.Digest{6}, Time: 1_900_000_000_123_456_789, Revision: 7, Failure: machine.FailureQuotaExceeded},
	}
	return h, entries
}

// fullSnapshot1 has every field that version 1 has.
func fullSnapshot1() (snapshotHeader, []kv.Entry) {
	return snapshotHeader{
			Sequence: 300, Time: 1_900_000_000_123_456_789, Revision: 42, Keys: 3,
			Limits:   kv.Limits{MaxKeys: 10_000, MaxValueSize: 1 << 20, MaxBytes: math.MaxInt64},
			Sessions: []session{{Worker: "worker-1", Number: 17, Seen: 1_900_000_000_000_000_000}, {Worker: "worker-2", Number: 1}},
		}, []kv.Entry{
			{Key: "a", Value: "\x00\xff", Revision: 41},
			{Key: "größe", Revision: 42, ExpiresAt: time.Unix(0, math.MaxInt64).UTC()},
			{Key: "k", Value: "v", Revision: 1, ExpiresAt: time.Unix(0, 1).UTC()},
		}
}

// fullSnapshotHex is fullSnapshot in version 2, and fullSnapshot1Hex is
// fullSnapshot1 in version 1. They never change: backups that were made are in
// them.
const fullSnapshotHex = "" +
	"6b76627302580000002bb028340a5608ac0210959ae7c4effd89af1a182a20032a1d08904e1080804018ffffffffffff" +
	"ffff7f206428ffffffffffffffff7f32160a08776f726b65722d311011188080f889effd89af1a320c0a08776f726b65" +
	"722d321001a300000050c5890f22240a1001000000000000000000000000000000121000000000000000000000000000" +
	"00000222470a1003000000000000000000000000000000121004000000000000000000000000000000188080f889effd" +
	"89af1a202a28ffffffffffffffff7f30ffffffffffffffffff01380122320a1005000000000000000000000000000000" +
	"12100600000000000000000000000000000018959ae7c4effd89af1a200740042e000000a303ed2e12090a0161120200" +
	"ff182912150a076772c3b6c39f65182a20ffffffffffffffff7f120a0a016b120176180120010a0000007c86aa631a08" +
	"08031093bab5ee09"

const fullSnapshot1Hex = "" +
	"6b766273014c000000e190e2710a4a08ac0210959ae7c4effd89af1a182a20032a1108904e1080804018ffffffffffff" +
	"ffff7f32160a08776f726b65722d311011188080f889effd89af1a320c0a08776f726b65722d3210012e000000a303ed" +
	"2e12090a0161120200ff182912150a076772c3b6c39f65182a20ffffffffffffffff7f120a0a016b120176180120010a" +
	"0000004f1b62f61a08080310d0ce888504"

// written returns a snapshot.
func written(t interface{ Fatal(...any) }, h snapshotHeader, entries []kv.Entry) []byte {
	var w bytes.Buffer
	if err := writeSnapshot(&w, h, slices.Values(entries)); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

// readAll reads a snapshot up to its end or the first error.
func readAll(r io.Reader) (snapshotHeader, []kv.Entry, error) {
	h, entries, err := readSnapshot(r)
	if err != nil {
		return h, nil, err
	}
	all, err := collect(entries)
	return h, all, err
}

func collect(entries iter.Seq2[kv.Entry, error]) (all []kv.Entry, err error) {
	for e, err := range entries {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

func TestSnapshotRoundTrip(t *testing.T) {
	fullHeader, fullEntries := fullSnapshot()
	var many []kv.Entry // of more than one block
	for i := range 5000 {
		many = append(many, kv.Entry{Key: fmt.Sprintf("k%06d", i), Value: strings.Repeat("v", i%200), Revision: uint64(i)})
	}
	large := []kv.Entry{
		{Key: "a", Value: "small"},
		{Key: "b", Value: strings.Repeat("v", 17<<20)},
		{Key: "c", Value: strings.Repeat("v", blockTarget-20)},
		{Key: "d", Value: strings.Repeat("v", blockTarget)},
		{Key: "e", Value: "small"},
	}
	var workers []session
	for i := range 2000 {
		workers = append(workers, session{Worker: fmt.Sprintf("worker-%d", i), Number: uint64(i), Seen: -1})
	}
	var requests []machine.Request // of more than one block
	for i := range 5000 {
		requests = append(requests, machine.Request{ID: machine.Digest{byte(i), byte(i >> 8)}, Time: int64(i), Number: int64(-i)})
	}
	for _, tt := range []struct {
		name    string
		h       snapshotHeader
		entries []kv.Entry
	}{
		{"nothing", snapshotHeader{}, nil},
		{"every field", fullHeader, fullEntries},
		{"many", snapshotHeader{Keys: 5000}, many},
		{"large values", snapshotHeader{Keys: 5}, large},
		{"many requests", snapshotHeader{Keys: 5000, Requests: requests}, many},
		{"requests only", snapshotHeader{Requests: requests[:1]}, nil},
		{"many workers", snapshotHeader{Time: math.MinInt64, Sequence: math.MaxUint64, Revision: math.MaxUint64, Sessions: workers}, nil},
	} {
		data := written(t, tt.h, tt.entries)
		for name, r := range map[string]io.Reader{
			"at once": bytes.NewReader(data), "by halves": iotest.HalfReader(bytes.NewReader(data)),
			"with the end": iotest.DataErrReader(bytes.NewReader(data)),
		} {
			h, entries, err := readAll(r)
			if err != nil || !reflect.DeepEqual(h, tt.h) || !slices.Equal(entries, tt.entries) {
				t.Errorf("%s, read %s: came back with %d entries, %v", tt.name, name, len(entries), err)
			}
		}
	}
}

func TestSnapshotGolden(t *testing.T) {
	h, entries := fullSnapshot()
	if got := hex.EncodeToString(written(t, h, entries)); got != fullSnapshotHex {
		t.Errorf("the format of version %d changed:\n%s", snapshotVersion, got)
	}
	header1, _ := fullSnapshot1()
	for snapshot, want := range map[string]snapshotHeader{fullSnapshotHex: h, fullSnapshot1Hex: header1} {
		data, err := hex.DecodeString(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		gotHeader, gotEntries, err := readAll(bytes.NewReader(data))
		if err != nil || !reflect.DeepEqual(gotHeader, want) || !slices.Equal(gotEntries, entries) {
			t.Errorf("came back as %+v, %+v, %v", gotHeader, gotEntries, err)
		}
	}
}

func TestSnapshotProperties(t *testing.T) {
	text := rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 300), func(b []byte) string { return string(b) })
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.MapOfN(text, rapid.IntRange(0, 100_000), 0, 20).Draw(t, "values")
		var entries []kv.Entry
		for _, key := range slices.Sorted(maps.Keys(values)) {
			e := kv.Entry{Key: key, Value: strings.Repeat(key, 1+values[key]/len(key))[:values[key]]}
			e.Revision = rapid.Uint64().Draw(t, "revision")
			if ns := rapid.Int64Min(0).Draw(t, "deadline"); ns != 0 {
				e.ExpiresAt = time.Unix(0, ns).UTC()
			}
			entries = append(entries, e)
		}
		h := snapshotHeader{
			Sequence: rapid.Uint64().Draw(t, "sequence"),
			Time:     rapid.Int64().Draw(t, "time"),
			Revision: rapid.Uint64().Draw(t, "revision"),
			Keys:     uint64(len(entries)),
		}
		digest := rapid.Custom(func(t *rapid.T) (d machine.Digest) {
			copy(d[:], rapid.SliceOfN(rapid.Byte(), len(d), len(d)).Draw(t, "digest"))
			return d
		})
		for range rapid.IntRange(0, 3).Draw(t, "requests") {
			h.Requests = append(h.Requests, machine.Request{
				ID:       digest.Draw(t, "id"),
				Content:  digest.Draw(t, "content"),
				Time:     rapid.Int64().Draw(t, "request time"),
				Revision: rapid.Uint64().Draw(t, "request revision"),
				Deadline: rapid.Int64Min(0).Draw(t, "request deadline"),
				Number:   rapid.Int64().Draw(t, "request number"),
				Applied:  rapid.Bool().Draw(t, "applied"),
				Failure:  machine.Failure(rapid.IntRange(0, int(machine.FailureQuotaExceeded)).Draw(t, "failure")),
			})
		}
		for range rapid.IntRange(0, 3).Draw(t, "sessions") {
			h.Sessions = append(h.Sessions, session{
				Worker: rapid.StringMatching(`[\x00-\x7f]{0,64}`).Draw(t, "worker"),
				Number: rapid.Uint64().Draw(t, "number"),
				Seen:   rapid.Int64().Draw(t, "seen"),
			})
		}
		gotHeader, got, err := readAll(bytes.NewReader(written(t, h, entries)))
		if err != nil || !reflect.DeepEqual(gotHeader, h) || !slices.Equal(got, entries) {
			t.Fatalf("came back as %+v, %+v, %v", gotHeader, got, err)
		}
	})
}

func TestSnapshotRefusesToWrite(t *testing.T) {
	deadline := func(at time.Time) []kv.Entry { return []kv.Entry{{Key: "a", ExpiresAt: at}} }
	for _, tt := range []struct {
		name    string
		h       snapshotHeader
		entries []kv.Entry
	}{
		{"too many", snapshotHeader{Keys: 1}, []kv.Entry{{Key: "a"}, {Key: "b"}}},
		{"too few", snapshotHeader{Keys: 3}, []kv.Entry{{Key: "a"}, {Key: "b"}}},
		{"not sorted", snapshotHeader{Keys: 2}, []kv.Entry{{Key: "b"}, {Key: "a"}}},
		{"a key twice", snapshotHeader{Keys: 2}, []kv.Entry{{Key: "a"}, {Key: "a"}}},
		{"no key", snapshotHeader{Keys: 1}, []kv.Entry{{}}},
		{"a deadline of 0", snapshotHeader{Keys: 1}, deadline(time.Unix(0, 0))},
		{"a deadline before 1970", snapshotHeader{Keys: 1}, deadline(time.Unix(-1, 0))},
		{"a deadline after 2262", snapshotHeader{Keys: 1}, deadline(time.Unix(0, math.MaxInt64).Add(1))},
		{"a deadline long after 2262", snapshotHeader{Keys: 1}, deadline(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))},
	} {
		if err := writeSnapshot(io.Discard, tt.h, slices.Values(tt.entries)); err == nil {
			t.Errorf("%s: written", tt.name)
		}
	}
}

var errDisk = errors.New("disk")

// A failingWriter takes n writes and fails then.
type failingWriter int

func (w *failingWriter) Write(p []byte) (int, error) {
	if *w--; *w < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func TestSnapshotErrorsBelow(t *testing.T) {
	h, entries := fullSnapshot()
	data := written(t, h, entries)
	for n := range 4 { // header, requests, entries, end
		if err := writeSnapshot(new(failingWriter(n)), h, slices.Values(entries)); !errors.Is(err, errDisk) {
			t.Errorf("write %d: %v", n, err)
		}
	}
	for n := range len(data) + 1 {
		r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(errDisk))
		if _, _, err := readAll(r); !errors.Is(err, errDisk) || errors.Is(err, errSnapshot) {
			t.Errorf("read after %d bytes: %v", n, err)
		}
	}
}

func TestSnapshotStopsEarly(t *testing.T) {
	h, entries := fullSnapshot()
	_, seq, err := readSnapshot(bytes.NewReader(written(t, h, entries)))
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range seq {
		if err != nil || e != entries[0] {
			t.Errorf("%+v, %v", e, err)
		}
		break
	}
}

func TestSnapshotDamage(t *testing.T) {
	h, entries := fullSnapshot()
	data := written(t, h, entries)
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		if _, _, err := readAll(bytes.NewReader(data)); !errors.Is(err, errSnapshot) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
	for n := range len(data) {
		if _, _, err := readAll(bytes.NewReader(data[:n])); !errors.Is(err, errSnapshot) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for _, more := range []string{"\x00", string(data)} {
		r := io.MultiReader(bytes.NewReader(data), strings.NewReader(more))
		if _, _, err := readAll(r); !errors.Is(err, errSnapshot) {
			t.Errorf("followed by %d bytes: %v", len(more), err)
		}
	}
}

// framed returns a snapshot of those bodies of blocks, with the checksums that
// they need.
func framed(bodies ...string) []byte { return framedAs(snapshotVersion, bodies...) }

func framedAs(version byte, bodies ...string) []byte {
	data := append([]byte(snapshotMagic), version)
	for _, body := range bodies {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(body)))
		data = binary.LittleEndian.AppendUint32(data, checksum([]byte(body)))
		data = append(data, body...)
	}
	return data
}

// end is the body of a last block.
func end(keys byte, data []byte) string {
	body := append([]byte("\x08"), keys, 0x10)
	body = binary.AppendUvarint(body, uint64(checksum(data)))
	return string(append([]byte{0x1a, byte(len(body))}, body...))
}

// ended returns a snapshot with its last block.
func ended(keys byte, data []byte) []byte {
	return append(data, framed(end(keys, data))[len(snapshotMagic)+1:]...)
}

// TestSnapshotStrict has snapshots whose checksums are right.
func TestSnapshotStrict(t *testing.T) {
	const (
		header = "\x0a\x04\x20\x02\x2a\x00" // of two entries
		a      = "\x12\x03\x0a\x01a"
		b      = "\x12\x03\x0a\x01b"
		c      = "\x12\x03\x0a\x01c"
		ids    = "\x0a\x10id--------------\x12\x10content---------"
		r      = "\x22\x24" + ids
	)
	for _, tt := range []struct {
		name   string
		blocks []string
		keys   byte
		want   string
	}{
		{"sound", []string{header, a + b}, 2, ""},
		{"sound in two blocks", []string{header, a, b}, 2, ""},
		{"a block gone", []string{header, a}, 2, "1 entries; the header says 2 and the end 2"},
		{"an end of fewer", []string{header, a, b}, 1, "2 entries; the header says 2 and the end 1"},
		{"more than promised", []string{header, a, b + c}, 3, "more entries than the 2"},
		{"blocks exchanged", []string{header, b, a}, 2, `key "a" after "b"`},
		{"a block twice", []string{header, a, a}, 2, `key "a" after "a"`},
		{"entries exchanged", []string{header, b + a}, 2, `key "a" after "b"`},
		{"no key", []string{header, "\x12\x02\x18\x01"}, 1, `key "" after ""`},
		{"no header", []string{a + b}, 2, "block type 2 instead of the header"},
		{"two headers", []string{header, header, a + b}, 2, "block type 1 after 0 entries"},
		{"entries in the header's block", []string{header + a, b}, 2, "first block: unknown field 2"},
		{"header twice in a block", []string{header + header, a + b}, 2, "first block: field 1 after field 1"},
		{"an end among entries", []string{header, a + b + "\x1a\x00"}, 2, "unknown field 3"},
		{"unknown block", []string{header, "\x2a\x00"}, 2, "block type 5"},
		{"sound with requests", []string{header, r + r, r, a, b}, 2, ""},
		{"requests after entries", []string{header, a, r, b}, 2, "block type 4 after 1 entries"},
		{"entries among requests", []string{header, r + "\x2a\x00", a, b}, 2, "block after 1 requests: unknown field 5"},
		{"empty request", []string{header, "\x22\x00", a, b}, 2, "request: it has 0 digests"},
		{"request without content", []string{header, "\x22\x12\x0a\x10id--------------", a, b}, 2, "request: it has 1 digests"},
		{"short digest", []string{header, "\x22\x03\x0a\x01i", a, b}, 2, "request: field 1 has 1 bytes"},
		{"unknown failure", []string{header, "\x22\x26" + ids + "\x40\x05", a, b}, 2, "request: unknown failure 5"},
		{"failure beyond a byte", []string{header, "\x22\x27" + ids + "\x40\x80\x02", a, b}, 2, "request: field 8 is 256"},
		{"unknown field of a request", []string{header, "\x22\x26" + ids + "\x48\x01", a, b}, 2, "request: unknown field 9"},
		{"empty block", []string{header, "", a + b}, 2, "it is empty"},
		{"unknown field of a header", []string{"\x0a\x02\x38\x01"}, 0, "header: unknown field 7"},
		{"unknown field of a session", []string{"\x0a\x04\x32\x02\x20\x01"}, 0, "header: session: unknown field 4"},
		{"long worker", []string{"\x0a\x45\x32\x43\x0a\x41" + strings.Repeat("w", 65)}, 0, "has 65 bytes"},
		{"negative limit", []string{"\x0a\x0d\x2a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"}, 0, "header: limits: field 1"},
		{"unknown field of an entry", []string{header, "\x12\x05\x0a\x01a\x28\x01"}, 2, "entry: unknown field 5"},
		{"negative deadline", []string{header, "\x12\x0e\x0a\x01a\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"}, 2, "entry: field 4"},
		{"key twice", []string{header, "\x12\x06\x0a\x01a\x0a\x01a"}, 2, "entry: field 1 after field 1"},
	} {
		_, entries, err := readAll(bytes.NewReader(ended(tt.keys, framed(tt.blocks...))))
		switch {
		case tt.want == "":
			if err != nil || len(entries) != 2 {
				t.Errorf("%s: %+v, %v", tt.name, entries, err)
			}
		case !errors.Is(err, errSnapshot) || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}

	for version := byte(1); version <= snapshotVersion; version++ {
		if _, entries, err := readAll(bytes.NewReader(ended(2, framedAs(version, header, a, b)))); err != nil || len(entries) != 2 {
			t.Errorf("version %d: %+v, %v", version, entries, err)
		}
	}
	sound := framed(header, a, b)
	last := end(2, sound)
	other := framed(header, a+b)
	for name, data := range map[string][]byte{
		"the end of another":    append(sound, framed(end(2, other))[len(snapshotMagic)+1:]...),
		"an end with more":      append(framed(header, a, b), framed("\x1a" + string([]byte{last[1] + 2}) + last[2:] + "\x18\x01")[len(snapshotMagic)+1:]...),
		"an end beside more":    append(framed(header, a, b), framed(last + "\x22\x00")[len(snapshotMagic)+1:]...),
		"a block of 4 GiB":      append([]byte("kvbs\x01"), "\xff\xff\xff\xff\x00\x00\x00\x00"...),
		"a block never to come": append([]byte("kvbs\x01"), "\x00\x00\x00\x01\x00\x00\x00\x00"...),
		"version 0":             ended(2, framedAs(0, header, a, b)),
		"a later version":       ended(2, framedAs(snapshotVersion+1, header, a, b)),
		"requests in version 1": ended(2, framedAs(1, header, r, a, b)),
		"limits in version 1":   ended(2, framedAs(1, "\x0a\x06\x20\x02\x2a\x02\x20\x01", a, b)),
		"a log record":          []byte(recordMagic + "\x01"),
	} {
		checkAllocation(t, len(data), func() {
			if _, _, err := readAll(bytes.NewReader(data)); !errors.Is(err, errSnapshot) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

func FuzzReadSnapshot(f *testing.F) {
	h, entries := fullSnapshot()
	data := written(f, h, entries)
	f.Add(data, []byte("\x0a\x00"), []byte("\x12\x03\x0a\x01a"), byte(1))
	f.Add(data[:len(data)-1], []byte("\x0a\x04\x20\x01\x2a\x00"), []byte("\x12\x03\x0a\x01a"), byte(1))
	f.Add([]byte(nil), []byte("\x0a\x00"), []byte("\x22\x24\x0a\x10id--------------\x12\x10content---------"), byte(0))
	f.Add([]byte(nil), []byte("\x0a\x02\x20\x02"), []byte("\x12\x03\x0a\x01a\x12\x06\x0a\x01b\x12\x01v"), byte(2))
	f.Fuzz(func(t *testing.T, data, header, entries []byte, keys byte) {
		// One as it is, and one with the checksums that it would hardly find by
		// chance.
		sealed := ended(keys, framed(string(header), string(entries)))
		for _, data := range [][]byte{data, sealed} {
			var h snapshotHeader
			var all []kv.Entry
			var err error
			checkAllocation(t, len(data), func() { h, all, err = readAll(bytes.NewReader(data)) })
			if err != nil {
				if !errors.Is(err, errSnapshot) {
					t.Errorf("error %v", err)
				}
				continue
			}
			again, allAgain, err := readAll(bytes.NewReader(written(t, h, all)))
			if err != nil || !reflect.DeepEqual(again, h) || !slices.Equal(allAgain, all) {
				t.Errorf("came back as %+v, %+v, %v", again, allAgain, err)
			}
		}
	})
}
