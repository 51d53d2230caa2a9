package kvtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"kvbus/kv"
)

// validKeys are keys that every store takes, each for a reason of its own.
var validKeys = []string{
	"a", "Z", "0", "-", "_", "/", ":", ".", "..", "a.b", "a..b", ".a", "a.", "..a..",
	"user.42.name", "http://host:80/path", "A-Z_0-9",
	"größe", "имя", "όνομα", "名前", "이름", "اسم", "שם", "नाम", "ชื", "ñandú", "ǅ", "ʰ", "ª",
	"k", "K", "\u212a", // kelvin sign: no case is folded and nothing is normalized
	"٣", "४", "Ⅷ", "〇", "½", "²", "①", "𝟘", // numbers of all three kinds
	"\u0345", "\u093e", "\u24b6", "\u0e31", // Other_Alphabetic, by themselves
	"𐐷", "𠀀", // beyond the basic plane
}

// invalidKeys are what no store takes.
var invalidKeys = []string{
	" ", "a b", "a ", "\t", "a\nb", "\x00", "a\x7f", "\u0085", "\u00a0", "\u2028", "\u200d", "\ufeff",
	"*", ">", "a.*", "a.>", "a*", "=", "a.=", "a=b",
	"!", "\"", "#", "$", "%", "&", "'", "(", ")", "+", ",", ";", "<", "?", "@", "[", "\\", "]", "^", "`", "{", "|", "}", "~",
	"€", "°", "×", "…", "\u2010", "\uff0f",
	"e\u0301", "\u094d", "\ufe0f", // marks that are not alphabetic
	"😀", "☃", "\ufffd", "\ue000", "\U000e0001",
	"\xff", "a\xff", "\xe4\xb8", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
}

func keyChecks() []check {
	return []check{
		{"valid", checkValidKeys},
		{"invalid", checkInvalidKeys},
		{"empty", checkEmptyKey},
		{"length", checkKeyLength},
		{"empty tokens are kept apart", checkEmptyTokens},
	}
}

func checkValidKeys(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	for _, key := range validKeys {
		revision := s.set(key, "value of "+key)
		e.same(w.next(), kv.Event{Kind: kv.EventSet, Key: key, Value: "value of " + key, Revision: revision})
	}
	for _, key := range validKeys {
		s.holds(key, "value of "+key)
	}
	keys, err := s.Keys(s.ctx, "")
	if err != nil {
		e.Fatal(err)
	}
	if want := slices.Sorted(slices.Values(validKeys)); !slices.Equal(keys, want) {
		e.Errorf("keys\n got %q\nwant %q", keys, want)
	}
	for _, key := range validKeys {
		if !s.remove(key) {
			e.Errorf("delete %q: false", key)
		}
		s.lacks(key)
	}
}

func checkInvalidKeys(e *env) {
	s := e.open()
	s.unchanged("invalid keys", func() {
		for _, key := range invalidKeys {
			s.keyRefused(key)
			s.prefixRefused(key)
		}
	})
}

func checkEmptyKey(e *env) {
	s := e.open()
	s.unchanged("the empty key", func() { s.keyRefused("") })
	s.set("a", "")
	e.equal("entries under the empty prefix", len(s.scan(kv.Query{}).Entries), 1)
	e.equal("keys cleared under the empty prefix", s.do(kv.Command{Op: kv.OpClear}).Number, int64(1))
}

func checkKeyLength(e *env) {
	s := e.open()
	for _, key := range []string{
		strings.Repeat("k", kv.MaxKeyLength),
		strings.Repeat("é", kv.MaxKeyLength/2),
		strings.Repeat("k.", kv.MaxKeyLength/2),
		strings.Repeat(".", kv.MaxKeyLength),
	} {
		s.set(key, "long")
		s.holds(key, "long")
		s.keyRefused(key + "k")
		s.prefixRefused(key + "k")
		e.equal("entries under a prefix of the greatest length", len(s.scan(kv.Query{Prefix: key}).Entries), 1)
		e.equal("delete of a long key", s.remove(key), true)
	}
	s.keyRefused(strings.Repeat("é", kv.MaxKeyLength/2+1))
}

// checkEmptyTokens keeps keys apart that a bus, which has no empty token, may
// take for the same.
func checkEmptyTokens(e *env) {
	s := e.open()
	keys := []string{".", "..", "a", ".a", "a.", ".a.", "a..b", "a.b", "a...b", "..a", "a.."}
	for i, key := range keys {
		s.set(key, fmt.Sprint(i))
	}
	for i, key := range keys {
		s.holds(key, fmt.Sprint(i))
		event := s.event(uint64(i + 1))
		e.equal("key of the event", event.Key, key)
	}
	for i, key := range keys {
		var want []string
		for _, other := range keys[i+1:] {
			if strings.HasPrefix(other, key+".") {
				want = append(want, other)
			}
		}
		slices.Sort(want)
		for _, gone := range keys[:i] {
			s.lacks(gone)
		}
		got, err := s.Keys(s.ctx, key+".")
		if err != nil {
			e.Fatal(err)
		}
		if !slices.Equal(got, want) {
			e.Errorf("keys under %q: got %q, want %q", key+".", got, want)
		}
		e.equal("delete of "+key, s.remove(key), true)
	}
}

// keyRefused checks that no operation takes key.
func (s *subject) keyRefused(key string) {
	s.e.Helper()
	for _, cmd := range []kv.Command{
		{Op: kv.OpSet, Key: key, Value: "v"},
		{Op: kv.OpCompareAndSwap, Key: key, Expect: kv.IfAbsent()},
		{Op: kv.OpIncrement, Key: key, Delta: 1},
		{Op: kv.OpDelete, Key: key},
		{Op: kv.OpTouch, Key: key},
	} {
		_, err := s.Store().Do(s.ctx, cmd)
		s.wantErr(describe(cmd), err, kv.ErrInvalidKey)
	}
	_, err := s.Get(s.ctx, key)
	s.wantErr(fmt.Sprintf("get %.60q", key), err, kv.ErrInvalidKey)
}

// prefixRefused checks that nothing takes prefix.
func (s *subject) prefixRefused(prefix string) {
	s.e.Helper()
	what := fmt.Sprintf("with prefix %.60q", prefix)
	_, err := s.Store().Do(s.ctx, kv.Command{Op: kv.OpClear, Key: prefix})
	s.wantErr("clear "+what, err, kv.ErrInvalidKey)
	_, err = s.Store().Scan(s.ctx, kv.Query{Prefix: prefix})
	s.wantErr("scan "+what, err, kv.ErrInvalidKey)
	_, err = s.Store().Replay(s.ctx, kv.ReplayQuery{Prefix: prefix})
	s.wantErr("replay "+what, err, kv.ErrInvalidKey)
	for event, err := range s.Watch(s.ctx, kv.WatchOptions{Prefix: prefix}) {
		if !errors.Is(err, kv.ErrInvalidKey) {
			s.e.Errorf("watch %s: %+v, error %v; want %v", what, event, err, kv.ErrInvalidKey)
		}
		break
	}
}
