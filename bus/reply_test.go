package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

var (
	testTime     = time.Date(2031, 2, 3, 4, 5, 6, 789, time.UTC)
	testDeadline = time.Date(2262, 4, 11, 23, 47, 16, 854775807, time.UTC)
)

// header returns a header of a message, and - for one that it does not have.
func header(m *nats.Msg, name string) string {
	if values, ok := m.Header[name]; ok {
		return values[0]
	}
	return "-"
}

func TestResult(t *testing.T) {
	var e Encoder
	for _, tt := range []struct {
		op                      Op
		result                  kv.Result
		body, revision, expires string
	}{
		{OpSet, kv.Result{Applied: true, Revision: 7}, "7", "7", "-"},
		{OpSet, kv.Result{Applied: true, Revision: math.MaxUint64, ExpiresAt: testDeadline}, "18446744073709551615", "18446744073709551615", "2262-04-11T23:47:16.854775807Z"},
		{OpCompareAndSwap, kv.Result{Applied: true, Revision: 7, ExpiresAt: testTime}, "true", "7", "2031-02-03T04:05:06.000000789Z"},
		{OpCompareAndSwap, kv.Result{Revision: 5}, "false", "5", "-"},
		{OpCompareAndSwap, kv.Result{}, "false", "0", "-"},
		{OpIncrement, kv.Result{Applied: true, Revision: 7, Number: math.MinInt64}, "-9223372036854775808", "7", "-"},
		{OpDelete, kv.Result{Applied: true, Revision: 7}, "true", "7", "-"},
		{OpDelete, kv.Result{}, "false", "-", "-"},
		{OpTouch, kv.Result{Applied: true, Revision: 7, ExpiresAt: testTime}, "true", "7", "2031-02-03T04:05:06.000000789Z"},
		{OpTouch, kv.Result{}, "false", "-", "-"},
		{OpClear, kv.Result{Applied: true, Number: 3}, "3", "-", "-"},
		{OpClear, kv.Result{}, "0", "-", "-"},
	} {
		m := e.Result(tt.op, tt.result)
		if string(m.Data) != tt.body || header(m, "KV-Revision") != tt.revision || header(m, "KV-Expires-At") != tt.expires {
			t.Errorf("%v %+v is %q %v", tt.op, tt.result, m.Data, m.Header)
		}
		if back, err := DecodeResult(tt.op, m); err != nil || back != tt.result {
			t.Errorf("%v %+v came back as %+v, %v", tt.op, tt.result, back, err)
		}
	}
}

func TestCommandError(t *testing.T) {
	var e Encoder
	for _, revision := range []uint64{0, 5} {
		m := e.CommandError(kv.Result{Revision: revision}, fmt.Errorf("%w: at %d", kv.ErrConflict, revision))
		if got := header(m, "KV-Revision"); got != fmt.Sprint(revision) {
			t.Errorf("conflict at %d has KV-Revision %s", revision, got)
		}
		for _, op := range []Op{OpSet, OpDelete} {
			if r, err := DecodeResult(op, m); !errors.Is(err, kv.ErrConflict) || r != (kv.Result{Revision: revision}) {
				t.Errorf("conflict came back as %+v, %v", r, err)
			}
		}
	}
	m := e.CommandError(kv.Result{Revision: 5}, kv.ErrQuotaExceeded)
	if got := header(m, "KV-Revision"); got != "-" {
		t.Errorf("quota_exceeded has KV-Revision %s", got)
	}
}

// entries are live entries of all sorts.
var entries = []kv.Entry{
	{Key: "a", Value: "v", Revision: 1},
	{Key: "a..b", Value: "", Revision: 2, ExpiresAt: testTime},
	{Key: "größe.五", Value: "\x00\xff\r\n", Revision: math.MaxUint64, ExpiresAt: testDeadline},
}

func TestEntryRoundTrip(t *testing.T) {
	var e Encoder
	var page kv.Page
	for _, entry := range entries {
		if back, err := DecodeValue(entry.Key, e.Value(entry)); err != nil || back != entry {
			t.Errorf("%+v came back from get as %+v, %v", entry, back, err)
		}
		if done, err := AddToPage(&page, e.ScanEntry(entry)); done || err != nil {
			t.Errorf("%+v: %v, %v", entry, done, err)
		}
		bare := entry
		bare.Value = ""
		if back, live, err := DecodeExists(entry.Key, e.Exists(&entry)); err != nil || !live || back != bare {
			t.Errorf("%+v came back from exists as %+v, %v, %v", entry, back, live, err)
		}
		want := time.Duration(0)
		if !entry.ExpiresAt.IsZero() {
			want = 1500 * time.Millisecond
		}
		now := entry.ExpiresAt.Add(-want)
		if left, back, err := DecodeTTL(entry.Key, e.TTL(entry, now)); err != nil || left != want || back != bare {
			t.Errorf("%+v came back from ttl as %v, %+v, %v", entry, left, back, err)
		}
	}
	if done, err := AddToPage(&page, e.ScanEnd(9, "größe\n")); !done || err != nil {
		t.Errorf("end: %v, %v", done, err)
	}
	if want := (kv.Page{Entries: entries, Revision: 9, Cursor: "größe\n"}); !reflect.DeepEqual(page, want) {
		t.Errorf("page %+v, want %+v", page, want)
	}
	if back, live, err := DecodeExists("a", e.Exists(nil)); err != nil || live || back != (kv.Entry{}) {
		t.Errorf("no key came back as %+v, %v, %v", back, live, err)
	}
	if m := e.TTL(entries[1], testTime.Add(time.Second)); string(m.Data) != "1ns" {
		t.Errorf("a deadline that just passed is %q", m.Data)
	}
	if m := e.TTL(entries[0], testTime); string(m.Data) != "never" {
		t.Errorf("no deadline is %q", m.Data)
	}
}

func TestStreamStopsAtAnError(t *testing.T) {
	var e Encoder
	page := kv.Page{Entries: entries[:1]}
	if done, err := AddToPage(&page, e.Error(kv.ErrUnavailable)); done || !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("%v, %v", done, err)
	}
	var replay kv.Replay
	if done, err := AddToReplay(&replay, e.Error(kv.ErrCompacted)); done || !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("%v, %v", done, err)
	}
	if !reflect.DeepEqual(page, kv.Page{Entries: entries[:1]}) || !reflect.DeepEqual(replay, kv.Replay{}) {
		t.Errorf("changed: %+v, %+v", page, replay)
	}
}

func TestKeysRoundTrip(t *testing.T) {
	var e Encoder
	for _, tt := range []struct {
		page kv.Page
		body string
	}{
		{kv.Page{Revision: 3}, ""},
		{kv.Page{Revision: 3, Entries: []kv.Entry{{Key: "a"}}}, "a"},
		{kv.Page{Revision: 3, Entries: []kv.Entry{{Key: "a"}, {Key: "größe"}}, Cursor: "größe"}, "a\ngröße"},
	} {
		m := e.Keys(tt.page)
		if string(m.Data) != tt.body || header(m, "KV-Count") != fmt.Sprint(len(tt.page.Entries)) {
			t.Errorf("%+v is %q %v", tt.page, m.Data, m.Header)
		}
		if _, more := m.Header["KV-Cursor"]; more != (tt.page.Cursor != "") {
			t.Errorf("%+v has the header KV-Cursor: %v", tt.page, more)
		}
		if back, err := DecodeKeys(m); err != nil || !reflect.DeepEqual(back, tt.page) {
			t.Errorf("%+v came back as %+v, %v", tt.page, back, err)
		}
	}
}

// events are of every kind.
var events = []kv.Event{
	{Kind: kv.EventSet, Key: "a", Value: "v", Revision: 1, Time: testTime},
	{Kind: kv.EventSet, Key: "größe.五", Value: "\x00\xff\r\n", Revision: 9, PreviousRevision: 1, Time: testTime, ExpiresAt: testDeadline, Trace: kv.Trace{Parent: testParent, State: "a=1"}},
	{Kind: kv.EventDelete, Key: "a..b", Revision: 10, PreviousRevision: 2, Time: testTime, Trace: kv.Trace{Parent: testParent}},
	{Kind: kv.EventExpire, Key: ".", Revision: 11, PreviousRevision: 9, Time: testTime},
	{Kind: kv.EventTouch, Key: "a", Revision: math.MaxUint64, PreviousRevision: 1, Time: testTime, ExpiresAt: testTime.Add(time.Hour)},
}

func TestEventRoundTrip(t *testing.T) {
	s := testSubjects(t)
	var e Encoder
	for _, ev := range events {
		m := e.Event(s, ev)
		if m.Subject != s.EventSubject(ev.Key) {
			t.Errorf("%+v goes to %q", ev, m.Subject)
		}
		if back, err := s.DecodeEvent(m); err != nil || !reflect.DeepEqual(back, ev) {
			t.Errorf("%+v came back as %+v, %v", ev, back, err)
		}
	}
	for _, more := range []bool{true, false} {
		var replay kv.Replay
		for _, ev := range events {
			if done, err := AddToReplay(&replay, e.ReplayEvent(ev)); done || err != nil {
				t.Errorf("%+v: %v, %v", ev, done, err)
			}
		}
		if done, err := AddToReplay(&replay, e.ReplayEnd(12, more)); !done || err != nil {
			t.Errorf("end: %v, %v", done, err)
		}
		if want := (kv.Replay{Events: events, Revision: 12, More: more}); !reflect.DeepEqual(replay, want) {
			t.Errorf("replay %+v, want %+v", replay, want)
		}
	}
}

// A stream that lost messages in the middle has an end that tells.
func TestStreamWithAHole(t *testing.T) {
	var e Encoder
	var page kv.Page
	var replay kv.Replay
	e.ScanEntry(kv.Entry{Key: "lost", Revision: 1})
	if _, err := AddToPage(&page, e.ScanEntry(kv.Entry{Key: "a", Revision: 2})); err != nil {
		t.Fatal(err)
	}
	if _, err := AddToPage(&page, e.ScanEnd(2, "")); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("the end of a scan with a hole: %v", err)
	}
	e.ReplayEvent(events[0])
	if _, err := AddToReplay(&replay, e.ReplayEnd(1, false)); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("the end of a replay with a hole: %v", err)
	}
	// A service of earlier days does not tell how many came.
	uncounted := kv.Replay{Events: events[:1]}
	end := e.ReplayEnd(1, false)
	end.Header.Del("KV-Count")
	if done, err := AddToReplay(&uncounted, end); !done || err != nil {
		t.Errorf("the end of a replay that has no count: %v, %v", done, err)
	}
	// An error ends a stream too; the next one counts anew.
	e.ReplayEvent(events[0])
	e.Error(kv.ErrInternal)
	if done, err := AddToReplay(&replay, e.ReplayEnd(1, false)); !done || err != nil {
		t.Errorf("an empty replay: %v, %v", done, err)
	}
}

// No decoder takes an error for an answer without content.
func TestErrorReplies(t *testing.T) {
	var e Encoder
	m := e.Error(kv.ErrUnavailable)
	for name, decode := range map[string]func() error{
		"result": func() error { _, err := DecodeResult(OpDelete, m); return err },
		"value":  func() error { _, err := DecodeValue("a", m); return err },
		"exists": func() error { _, _, err := DecodeExists("a", m); return err },
		"ttl":    func() error { _, _, err := DecodeTTL("a", m); return err },
		"keys":   func() error { _, err := DecodeKeys(m); return err },
		"info":   func() error { _, err := DecodeInfo(m); return err },
	} {
		if err := decode(); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%s: %v, want %v", name, err, kv.ErrUnavailable)
		}
	}
}

func TestMalformedReplies(t *testing.T) {
	s := testSubjects(t)
	msg := func(body string, pairs ...string) *nats.Msg {
		return &nats.Msg{Header: h(pairs...), Data: []byte(body)}
	}
	event := []string{"KV-Operation", "SET", "KV-Revision", "2", "KV-Previous-Revision", "1", "KV-Time", "2031-02-03T04:05:06Z"}
	for name, decode := range map[string]func() error{
		"set without a revision": func() error { _, err := DecodeResult(OpSet, msg("7")); return err },
		"set of another one":     func() error { _, err := DecodeResult(OpSet, msg("7", "KV-Revision", "8")); return err },
		"cas of maybe":           func() error { _, err := DecodeResult(OpCompareAndSwap, msg("maybe", "KV-Revision", "8")); return err },
		"incr of words":          func() error { _, err := DecodeResult(OpIncrement, msg("x", "KV-Revision", "8")); return err },
		"bad revision":           func() error { _, err := DecodeResult(OpDelete, msg("true", "KV-Revision", "x")); return err },
		"bad deadline": func() error {
			_, err := DecodeValue("a", msg("v", "KV-Revision", "8", "KV-Expires-At", "soon"))
			return err
		},
		"get without a revision": func() error { _, err := DecodeValue("a", msg("v")); return err },
		"exists of nothing":      func() error { _, _, err := DecodeExists("a", msg("")); return err },
		"ttl of nothing":         func() error { _, _, err := DecodeTTL("a", msg("", "KV-Revision", "8")); return err },
		"keys cut off":           func() error { _, err := DecodeKeys(msg("a\nb", "KV-Count", "3")); return err },
		"keys with a bad cursor": func() error { _, err := DecodeKeys(msg("", "KV-Cursor", "?")); return err },
		"entry without a key":    func() error { _, err := AddToPage(&kv.Page{}, msg("", "KV-Revision", "1")); return err },
		"event without a key":    func() error { _, err := AddToReplay(&kv.Replay{}, msg("", event...)); return err },
		"event without headers":  func() error { _, err := s.DecodeEvent(&nats.Msg{Subject: "team.kv.events.a"}); return err },
		"event of no kind": func() error {
			m := msg("", append([]string{"kv-operation", "PUT"}, event[2:]...)...)
			m.Subject = "team.kv.events.a"
			_, err := s.DecodeEvent(m)
			return err
		},
		"exists of no revision":  func() error { _, _, err := DecodeExists("a", msg("true", "KV-Revision", "x")); return err },
		"ttl without a revision": func() error { _, _, err := DecodeTTL("a", msg("1s")); return err },
		"keys of no revision":    func() error { _, err := DecodeKeys(msg("", "KV-Count", "0", "KV-Revision", "x")); return err },
		"keys of no count":       func() error { _, err := DecodeKeys(msg("", "KV-Count", "x")); return err },
		"entry of no revision":   func() error { _, err := AddToPage(&kv.Page{}, msg("", "KV-Key", "a", "KV-Revision", "x")); return err },
		"scan to no revision": func() error {
			_, err := AddToPage(&kv.Page{}, msg("", "KV-End", "true", "KV-Revision", "x"))
			return err
		},
		"scan with a bad cursor": func() error { _, err := AddToPage(&kv.Page{}, msg("", "KV-End", "true", "KV-Cursor", "?")); return err },
		"scan of no count":       func() error { _, err := AddToPage(&kv.Page{}, msg("", "KV-End", "true", "KV-Count", "x")); return err },
		"event of nothing":       func() error { _, err := AddToReplay(&kv.Replay{}, msg("", "KV-Key", "a")); return err },
		"replay to no revision": func() error {
			_, err := AddToReplay(&kv.Replay{}, msg("", "KV-End", "true", "KV-Revision", "x"))
			return err
		},
		"info in XML": func() error { _, err := DecodeInfo(msg("<info/>")); return err },
	} {
		if err := decode(); !errors.Is(err, kv.ErrInternal) {
			t.Errorf("%s: %v, want ErrInternal", name, err)
		}
	}
	decodeEvent := func(headers []string) error {
		m := msg("", headers...)
		m.Subject = "team.kv.events.a"
		_, err := s.DecodeEvent(m)
		return err
	}
	for i := 0; i < len(event); i += 2 {
		without := slices.Delete(slices.Clone(event), i, i+2)
		if err := decodeEvent(without); !errors.Is(err, kv.ErrInternal) {
			t.Errorf("event without %s: %v, want ErrInternal", event[i], err)
		}
	}
	for _, name := range []string{"KV-Revision", "KV-Previous-Revision", "KV-Time", "KV-Expires-At"} {
		bad := append(slices.Clone(event), "KV-Expires-At", "2031-02-03T04:05:06Z")
		bad[slices.Index(bad, name)+1] = "x"
		if err := decodeEvent(bad); !errors.Is(err, kv.ErrInternal) {
			t.Errorf("event with a bad %s: %v, want ErrInternal", name, err)
		}
	}
	if _, err := s.DecodeEvent(msg("", event...)); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("event without a subject: %v", err)
	}
}

func TestInfoRoundTrip(t *testing.T) {
	info := Info{
		Name: "kvbus", Version: "1.2.3", Prefix: "kv", Uptime: "1h2m3s", MaxValueSize: 1000,
		Info: kv.Info{Store: "memory", Revision: 9, OldestRevision: 1, Keys: 2, Bytes: 30, Limits: kv.DefaultLimits()},
	}
	var e Encoder
	m, err := e.Info(info)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeInfo(m); err != nil || back != info {
		t.Errorf("%+v came back as %+v, %v", info, back, err)
	}
	var fields map[string]any
	if err := json.Unmarshal(m.Data, &fields); err != nil {
		t.Fatal(err)
	}
	for _, row := range infoFields(t) {
		if _, ok := fields[row]; !ok {
			t.Errorf("PROTOCOL.md has the field %s, info has not", row)
		}
		delete(fields, row)
	}
	if len(fields) > 0 {
		t.Errorf("info has %v, PROTOCOL.md has not", fields)
	}
}

// TestEncoderForgets makes sure that nothing of a message stays for the next.
func TestEncoderForgets(t *testing.T) {
	var e Encoder
	s := testSubjects(t)
	e.Event(s, events[1])
	if m := e.Exists(nil); len(m.Header) != 0 || m.Subject != "" || string(m.Data) != "false" {
		t.Errorf("after an event: %+v", m)
	}
	e.Error(kv.ErrNotFound)
	if m := e.Value(entries[0]); len(m.Header) != 1 || string(m.Data) != "v" {
		t.Errorf("after an error: %+v", m)
	}
}
