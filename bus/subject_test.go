package bus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kvbus/kv"
)

func testSubjects(tb testing.TB) Subjects {
	tb.Helper()
	s, err := NewSubjects("team.kv")
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestNewSubjects(t *testing.T) {
	for _, prefix := range []string{"kv", "team.kv", "a.b.c", "größe", "kv$", "a{b}}", "_INBOXES", strings.Repeat("x", MaxPrefixLength)} {
		s, err := NewSubjects(prefix)
		if err != nil || s.Prefix() != prefix {
			t.Errorf("NewSubjects(%q) = %q, %v", prefix, s.Prefix(), err)
		}
	}
	if s, err := NewSubjects(""); err != nil || s.Prefix() != DefaultPrefix {
		t.Errorf("the empty prefix gives %q, %v", s.Prefix(), err)
	}
	for _, prefix := range []string{
		".", "a.", ".a", "a..b", "a b", "a\tb", "a\n", "a\x00b", "*", "a.*", ">", "a.>", "a*b",
		"$SYS", "a.$JS", "a\xff", "a\u00a0b", "{{wildcard(1)}}", "a.b{{c", "_INBOX", "_INBOX.a", strings.Repeat("x", MaxPrefixLength+1),
	} {
		if _, err := NewSubjects(prefix); !errors.Is(err, kv.ErrInvalidArgument) {
			t.Errorf("NewSubjects(%q): %v, want ErrInvalidArgument", prefix, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	s := testSubjects(t)
	for op, want := range map[Op][]string{
		OpGet:  {"team.kv.get.>"},
		OpKeys: {"team.kv.keys", "team.kv.keys.>"},
		OpInfo: {"team.kv.info"},
	} {
		if got := s.Patterns(op); !slices.Equal(got, want) {
			t.Errorf("Patterns(%v) = %q, want %q", op, got, want)
		}
	}
}

// tails pairs keys with what follows the name of the operation.
var tails = []struct{ key, tail string }{
	{"a", "a"},
	{"a.b", "a.b"},
	{"a..b", "a.=.b"},
	{".a", "=.a"},
	{"a.", "a.="},
	{".", "=.="},
	{"..", "=.=.="},
	{"a...", "a.=.=.="},
	{"user/42:name_-", "user/42:name_-"},
	{"größe.五", "größe.五"},
	{strings.Repeat("k", kv.MaxKeyLength), strings.Repeat("k", kv.MaxKeyLength)},
	{strings.Repeat(".", kv.MaxKeyLength), strings.Repeat("=.", kv.MaxKeyLength) + "="},
}

func TestSubjectOfKey(t *testing.T) {
	s := testSubjects(t)
	for _, tt := range tails {
		for _, op := range Ops() {
			if op.Scope() == ScopeNone {
				continue
			}
			want := "team.kv." + op.String() + "." + tt.tail
			if got, err := s.Subject(op, tt.key); err != nil || got != want {
				t.Errorf("Subject(%v, %q) = %q, %v; want %q", op, tt.key, got, err, want)
			}
			if got, err := s.Key(op, want); err != nil || got != tt.key {
				t.Errorf("Key(%v, %q) = %q, %v; want %q", op, want, got, err, tt.key)
			}
		}
		if got, want := s.EventSubject(tt.key), "team.kv.events."+tt.tail; got != want {
			t.Errorf("EventSubject(%q) = %q, want %q", tt.key, got, want)
		}
		if got, err := s.EventKey("team.kv.events." + tt.tail); err != nil || got != tt.key {
			t.Errorf("EventKey(%q) = %q, %v", tt.tail, got, err)
		}
	}
}

func TestSubjectWithoutKey(t *testing.T) {
	s := testSubjects(t)
	for _, op := range []Op{OpKeys, OpScan, OpReplay, OpClear, OpInfo} {
		want := "team.kv." + op.String()
		if got, err := s.Subject(op, ""); err != nil || got != want {
			t.Errorf("Subject(%v) = %q, %v", op, got, err)
		}
		if got, err := s.Key(op, want); err != nil || got != "" {
			t.Errorf("Key(%v, %q) = %q, %v", op, want, got, err)
		}
	}
	if _, err := s.Subject(OpGet, ""); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("get of no key: %v", err)
	}
}

func TestSubjectIsNoKey(t *testing.T) {
	s := testSubjects(t)
	for _, tail := range []string{
		"", "=", ".", "a.", ".a", "a..b", "*", "a.*", ">", "a.>", "a=b", "a.==", "=a", "a b", "a\tb", "a\x00",
		"a$", "\xff", "a.\xc3", "a.=.\xff", strings.Repeat("k", kv.MaxKeyLength+1), strings.Repeat("=.", kv.MaxKeyLength+1) + "=",
	} {
		for _, op := range []Op{OpGet, OpSet, OpKeys, OpClear} {
			subject := "team.kv." + op.String() + "." + tail
			if key, err := s.Key(op, subject); !errors.Is(err, kv.ErrInvalidKey) {
				t.Errorf("Key(%v, %q) = %q, %v; want ErrInvalidKey", op, subject, key, err)
			}
		}
	}
	for _, subject := range []string{
		"", "kv.get.a", "team.kv", "team.kv.get", "team.kv.getter.a", "team.kv.set.a", "team.kvget.a", "team.kv.", "team.kv.get.",
	} {
		if key, err := s.Key(OpGet, subject); !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("Key(get, %q) = %q, %v; want ErrInvalidKey", subject, key, err)
		}
	}
	for _, subject := range []string{"", "kv.clear", "kv.clear.a", "team.kv", "team.kv.clearing", "team.kv.keys", "team.kvclear"} {
		if key, err := s.Key(OpClear, subject); !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("Key(clear, %q) = %q, %v; want ErrInvalidKey", subject, key, err)
		}
	}
	if _, err := s.Key(OpInfo, "team.kv.info.a"); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("info with a key: %v", err)
	}
	if _, err := s.EventKey("team.kv.events"); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("event without a key: %v", err)
	}
}

func TestEventPattern(t *testing.T) {
	s := testSubjects(t)
	for pattern, want := range map[string]string{
		"":           "team.kv.events.>",
		"user.*.=.>": "team.kv.events.user.*.=.>",
	} {
		filter, err := kv.ParseFilter(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.EventPattern(filter); got != want {
			t.Errorf("EventPattern(%q) = %q, want %q", pattern, got, want)
		}
	}
}

func FuzzSubjectKey(f *testing.F) {
	for _, tt := range tails {
		f.Add(tt.key)
	}
	f.Add("a=b")
	f.Add("*")
	s := testSubjects(f)
	f.Fuzz(func(t *testing.T, key string) {
		subject, err := s.Subject(OpGet, key)
		if (err == nil) != (kv.ValidateKey(key) == nil) {
			t.Fatalf("Subject(%q): %v, ValidateKey: %v", key, err, kv.ValidateKey(key))
		}
		if err != nil {
			return
		}
		for token := range strings.SplitSeq(subject, ".") {
			if token == "" || token == "*" || token == ">" {
				t.Fatalf("key %q has the subject %q", key, subject)
			}
		}
		if back, err := s.Key(OpGet, subject); err != nil || back != key {
			t.Fatalf("%q, as %q, came back as %q, %v", key, subject, back, err)
		}
	})
}

func FuzzSubjectDecode(f *testing.F) {
	for _, tt := range tails {
		f.Add(tt.tail)
	}
	f.Add("=")
	f.Add("a=.b")
	f.Add("a..b")
	s := testSubjects(f)
	f.Fuzz(func(t *testing.T, tail string) {
		subject := "team.kv.keys." + tail
		key, err := s.Key(OpKeys, subject)
		if err != nil {
			if !errors.Is(err, kv.ErrInvalidKey) {
				t.Fatalf("Key(%q): %v", subject, err)
			}
			return
		}
		if back, err := s.Subject(OpKeys, key); err != nil || back != subject {
			t.Fatalf("%q, the key %q, came back as %q, %v", subject, key, back, err)
		}
	})
}

func TestKeyDoesNotAllocate(t *testing.T) {
	s := testSubjects(t)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Key(OpGet, "team.kv.get.user.42.name"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Key allocates %v times", n)
	}
}

func TestRelaySubjects(t *testing.T) {
	s := testSubjects(t)
	relay := s.Relay()
	for _, subject := range []string{"team.kv.get.a", "team.kv.set.team.kv.set.a", "team.kv.keys"} {
		moved := s.Rebase(subject, relay)
		if want := "$KVBUS.$relay." + subject; moved != want {
			t.Errorf("%s is relayed on %s, want %s", subject, moved, want)
		}
		if got := relay.Rebase(moved, s); got != subject {
			t.Errorf("%s comes back as %s", subject, got)
		}
	}
	patterns := s.RequestPatterns()
	if len(patterns) != len(Ops())+4 { // keys, scan, replay and clear have two
		t.Errorf("the requests are on %q", patterns)
	}
}

func TestValidateReply(t *testing.T) {
	s := testSubjects(t)
	if err := s.ValidateReply(strings.Repeat("r", MaxReplyLength)); err != nil {
		t.Errorf("the longest: %v", err)
	}
	if err := s.ValidateReply(strings.Repeat("r", MaxReplyLength+1)); !errors.Is(err, kv.ErrInvalidArgument) {
		t.Errorf("one byte more: %v", err)
	}
	for reply, valid := range map[string]bool{
		"": true, "_INBOX.a.1": true, "_R_.a": true, "orders": true, "team": true, "team.kvs.set.a": true, "team.kv": true, "a.team.kv.set.a": true, "a$": true,
		"team.kv.set.a": false, "team.kv.events.a": false, "team.kv.": false, "$KVBUS.$relay.team.kv.set.a": false, "$JS.API.STREAM.PURGE.s": false, "$": false,
	} {
		switch err := s.ValidateReply(reply); {
		case valid && err != nil:
			t.Errorf("%q: %v", reply, err)
		case !valid && (!errors.Is(err, kv.ErrInvalidArgument) || !strings.Contains(err.Error(), fmt.Sprintf("%q", reply))):
			t.Errorf("%q: the error is %v", reply, err)
		}
	}
}
