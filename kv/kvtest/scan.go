package kvtest

import (
	"fmt"
	"slices"
	"strings"

	"kvbus/kv"
)

func scanChecks() []check {
	return []check{
		{"all, sorted by bytes", checkScanAll},
		{"a prefix is raw", checkScanPrefix},
		{"filters", checkScanFilters},
		{"filter within a prefix", checkScanFilterPrefix},
		{"pages of a number of entries", checkScanLimit},
		{"pages of a size", checkScanMaxBytes},
		{"a page filled to the last entry has no cursor", checkScanExactPage},
		{"a cursor outlives its key", checkScanCursorGone},
		{"a bad cursor", checkScanBadCursor},
		{"a bound below 0", checkScanBelowZero},
		{"keys only", checkScanKeysOnly},
		{"expired keys are left out", checkScanExpired},
		{"min revision", checkMinRevision},
		{"a page is of one revision", checkScanOneRevision},
		{"pages are of one revision each", checkPagesOneRevision},
	}
}

var scanned = []string{
	"a", "a.b", "a.b.c", "a..c", "a.", ".a", "a/b", "a:b", "a-b", "a_b", "ab", "abc", "A", "B.b", "0", "10", "9",
	"user.42.name", "user.42.mail", "user.7.name", "user.", "user..name", "users", "user", "ä", "ä.b", "名.前", "𐐷.a", "z.z",
}

// filled returns a store with all of scanned, each under its own name as value.
func filled(e *env) *subject {
	e.Helper()
	s := e.open()
	for _, key := range scanned {
		s.set(key, key)
	}
	return s
}

// selected checks that the query gives those of scanned that match, sorted.
func (s *subject) selected(q kv.Query, match func(key string) bool) {
	s.e.Helper()
	var want []string
	for _, key := range slices.Sorted(slices.Values(scanned)) {
		if match(key) {
			want = append(want, key)
		}
	}
	if got := keysOf(s.scan(q).Entries); !slices.Equal(got, want) {
		s.e.Errorf("scan with prefix %q and filter %v:\n got %q\nwant %q", q.Prefix, q.Filter, got, want)
	}
}

func keysOf(entries []kv.Entry) []string {
	keys := make([]string, len(entries))
	for i, entry := range entries {
		keys[i] = entry.Key
	}
	return keys
}

func checkScanAll(e *env) {
	s := filled(e)
	s.selected(kv.Query{}, func(string) bool { return true })
	page := s.scan(kv.Query{})
	e.equal("revision of the page", page.Revision, uint64(len(scanned)))
	e.equal("cursor of the only page", page.Cursor, "")
	for _, entry := range page.Entries {
		e.equal("entry", entry, kv.Entry{Key: entry.Key, Value: entry.Key, Revision: uint64(slices.Index(scanned, entry.Key) + 1)})
	}
	empty := e.open().scan(kv.Query{})
	if len(empty.Entries) != 0 || empty.Revision != 0 || empty.Cursor != "" {
		e.Errorf("scan of an empty store: %+v", empty)
	}
}

func checkScanPrefix(e *env) {
	s := filled(e)
	for _, prefix := range []string{"", "a", "a.", "a..", ".", "user", "user.", "user.4", "user..", "ä", "名", "𐐷.", "z.z", "z.z.", "zz", "0", "A"} {
		s.selected(kv.Query{Prefix: prefix}, func(key string) bool { return strings.HasPrefix(key, prefix) })
		keys, err := s.Keys(s.ctx, prefix)
		if want := keysOf(s.scan(kv.Query{Prefix: prefix}).Entries); err != nil || !slices.Equal(keys, want) {
			e.Errorf("keys under %q: %q, %v; want %q", prefix, keys, err, want)
		}
	}
}

// filters are patterns with the keys of scanned that they select, written out:
// the suite does not trust the filter of package kv.
var filters = map[string][]string{
	">":             scanned,
	"*":             {"a", "a/b", "a:b", "a-b", "a_b", "ab", "abc", "A", "0", "10", "9", "users", "user", "ä"},
	"*.*":           {"a.b", "a.", ".a", "B.b", "user.", "ä.b", "名.前", "𐐷.a", "z.z"},
	"a":             {"a"},
	"a.*":           {"a.b", "a."},
	"a.>":           {"a.b", "a.b.c", "a..c", "a."},
	"a.=":           {"a."},
	"=.a":           {".a"},
	"=.>":           {".a"},
	"a.=.c":         {"a..c"},
	"a.*.c":         {"a.b.c", "a..c"},
	"*.=":           {"a.", "user."},
	"user.*.name":   {"user.42.name", "user.7.name", "user..name"},
	"user.=.name":   {"user..name"},
	"user.42.*":     {"user.42.name", "user.42.mail"},
	"*.*.*":         {"a.b.c", "a..c", "user.42.name", "user.42.mail", "user.7.name", "user..name"},
	"*.*.>":         {"a.b.c", "a..c", "user.42.name", "user.42.mail", "user.7.name", "user..name"},
	"*.b":           {"a.b", "B.b", "ä.b"},
	"名.*":           {"名.前"},
	"nothing.>":     nil,
	"user.*.name.>": nil,
	"=":             nil,
}

func checkScanFilters(e *env) {
	s := filled(e)
	for pattern, want := range filters {
		s.selected(kv.Query{Filter: e.filter(pattern)}, func(key string) bool { return slices.Contains(want, key) })
	}
}

func checkScanFilterPrefix(e *env) {
	s := filled(e)
	for _, prefix := range []string{"a", "a.", "user.4", "user.42.name", "b", "u"} {
		for pattern, matching := range filters {
			s.selected(kv.Query{Prefix: prefix, Filter: e.filter(pattern)}, func(key string) bool {
				return strings.HasPrefix(key, prefix) && slices.Contains(matching, key)
			})
		}
	}
}

func (e *env) filter(pattern string) kv.Filter {
	e.Helper()
	filter, err := kv.ParseFilter(pattern)
	if err != nil {
		e.Fatal(err)
	}
	return filter
}

// paged collects all pages of a query; each must pass check.
func (s *subject) paged(q kv.Query, check func(kv.Page)) []string {
	s.e.Helper()
	var keys []string
	for range len(scanned) + 1 {
		page := s.scan(q)
		check(page)
		keys = append(keys, keysOf(page.Entries)...)
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return keys
		}
		if len(page.Entries) == 0 {
			s.e.Fatalf("scan %+v: an empty page with the cursor %q", q, page.Cursor)
		}
	}
	s.e.Fatalf("scan %+v: the pages don't end", q)
	return nil
}

func checkScanLimit(e *env) {
	s := filled(e)
	for _, base := range []kv.Query{{}, {Prefix: "user"}, {Filter: e.filter("*.*")}, {Prefix: "a", Filter: e.filter("a.>"), KeysOnly: true}} {
		want := keysOf(s.scan(base).Entries)
		for limit := 1; limit <= len(want)+1; limit++ {
			q := base
			q.Limit = limit
			got := s.paged(q, func(page kv.Page) {
				if n := len(page.Entries); n > limit || n < limit && page.Cursor != "" {
					e.Errorf("scan %+v: %d entries, cursor %q", q, n, page.Cursor)
				}
			})
			if !slices.Equal(got, want) {
				e.Errorf("pages of %d of %+v:\n got %q\nwant %q", limit, base, got, want)
			}
		}
	}
	var keys []string
	for entry, err := range s.Entries(s.ctx, kv.Query{Limit: 4}) {
		if err != nil {
			e.Fatal(err)
		}
		keys = append(keys, entry.Key)
	}
	if want := keysOf(s.scan(kv.Query{}).Entries); !slices.Equal(keys, want) {
		e.Errorf("entries of the handle:\n got %q\nwant %q", keys, want)
	}
}

func checkScanMaxBytes(e *env) {
	s := filled(e)
	s.set("m.large", strings.Repeat("v", 1000))
	for _, keysOnly := range []bool{false, true} {
		want := s.scan(kv.Query{}).Entries
		size := func(entry kv.Entry) int {
			if keysOnly {
				return len(entry.Key)
			}
			return len(entry.Key) + len(entry.Value)
		}
		for _, bound := range []int{1, 2, 5, 10, 24, 50, 500, 10_000} {
			at := 0
			got := s.paged(kv.Query{MaxBytes: bound, KeysOnly: keysOnly}, func(page kv.Page) {
				sum := 0
				for _, entry := range page.Entries {
					sum += size(want[at])
					e.equal("key", entry.Key, want[at].Key)
					at++
				}
				if len(page.Entries) > 1 && sum > bound {
					e.Errorf("a page of at most %d bytes has %d", bound, sum)
				}
				if page.Cursor != "" && at < len(want) && sum+size(want[at]) <= bound {
					e.Errorf("a page of at most %d bytes has %d, and the next entry has %d", bound, sum, size(want[at]))
				}
			})
			if !slices.Equal(got, keysOf(want)) {
				e.Errorf("pages of %d bytes:\n got %q\nwant %q", bound, got, keysOf(want))
			}
		}
	}
}

func checkScanExactPage(e *env) {
	s := filled(e)
	page := s.scan(kv.Query{Limit: len(scanned)})
	e.equal("entries", len(page.Entries), len(scanned))
	e.equal("cursor", page.Cursor, "")
	page = s.scan(kv.Query{Prefix: "user.42.", Limit: 2})
	e.equal("entries", len(page.Entries), 2)
	e.equal("cursor", page.Cursor, "")
}

func checkScanCursorGone(e *env) {
	s := filled(e)
	all := keysOf(s.scan(kv.Query{}).Entries)
	page := s.scan(kv.Query{Limit: 5})
	for _, key := range all[3:7] {
		s.remove(key)
	}
	s.set(all[4]+"0new", "")
	rest := s.scan(kv.Query{Cursor: page.Cursor})
	want := slices.Concat(all[7:], []string{all[4] + "0new"})
	slices.Sort(want)
	if got := keysOf(rest.Entries); !slices.Equal(got, want) {
		e.Errorf("after the keys around the cursor were removed:\n got %q\nwant %q", got, want)
	}
	e.equal("revision of the later page", rest.Revision, s.revision())
}

func checkScanBadCursor(e *env) {
	s := filled(e)
	for _, cursor := range []string{"not a key", "*", "\xff", strings.Repeat("k", kv.MaxKeyLength+1)} {
		_, err := s.Store().Scan(s.ctx, kv.Query{Cursor: cursor})
		s.wantErr(fmt.Sprintf("scan with cursor %.40q", cursor), err, kv.ErrInvalidArgument)
	}
}

func checkScanBelowZero(e *env) {
	s := filled(e)
	for _, q := range []kv.Query{{Limit: -1}, {MaxBytes: -1}} {
		_, err := s.Store().Scan(s.ctx, q)
		s.wantErr(fmt.Sprintf("scan %+v", q), err, kv.ErrInvalidArgument)
	}
}

func checkScanKeysOnly(e *env) {
	s := filled(e)
	full, keys := s.scan(kv.Query{}), s.scan(kv.Query{KeysOnly: true})
	if !slices.Equal(keysOf(keys.Entries), keysOf(full.Entries)) {
		e.Errorf("keys only: %q", keysOf(keys.Entries))
	}
	for _, entry := range keys.Entries {
		e.equal("value of an entry of keys only", entry.Value, "")
	}
}

func checkScanExpired(e *env) {
	s := filled(e)
	for _, key := range []string{"a", "user.7.name", "zz"} {
		s.expired(key, "")
	}
	left := func(key string) bool { return key != "a" && key != "user.7.name" }
	s.selected(kv.Query{}, left)
	s.selected(kv.Query{Prefix: "user."}, func(key string) bool { return left(key) && strings.HasPrefix(key, "user.") })
	got := s.paged(kv.Query{Limit: 3}, func(kv.Page) {})
	if slices.Contains(got, "a") || len(got) != len(scanned)-2 {
		e.Errorf("pages: %q", got)
	}
}

// checkMinRevision reads at the revision of a write, which it has, and at one
// that no write will bring.
func checkMinRevision(e *env) {
	s := e.open()
	revision := s.set("key", "value")
	for _, consistency := range []kv.Consistency{kv.DefaultConsistency, kv.Linearizable, kv.Eventual} {
		now := kv.ReadOptions{Consistency: consistency, MinRevision: revision}
		if entry, err := s.Store().Get(s.ctx, "key", now); err != nil || entry.Revision != revision {
			e.Errorf("get at revision %d: %+v, %v", revision, entry, err)
		}
		if page, err := s.Store().Scan(s.ctx, kv.Query{ReadOptions: now}); err != nil || page.Revision < revision {
			e.Errorf("scan at revision %d: %+v, %v", revision, page, err)
		}
		if replay, err := s.Store().Replay(s.ctx, kv.ReplayQuery{ReadOptions: now}); err != nil || replay.Revision < revision {
			e.Errorf("replay at revision %d: %+v, %v", revision, replay, err)
		}
	}
	never := kv.ReadOptions{MinRevision: revision + 1}
	reads := []struct {
		name string
		read func() error
	}{
		{"get", func() error { _, err := s.Store().Get(s.ctx, "key", never); return err }},
		{"scan", func() error { _, err := s.Store().Scan(s.ctx, kv.Query{ReadOptions: never}); return err }},
		{"replay", func() error { _, err := s.Store().Replay(s.ctx, kv.ReplayQuery{ReadOptions: never}); return err }},
	}
	// A store may wait for the revision as long as for anything.
	s.together(len(reads), func(i int) error {
		s.wantErr(reads[i].name+" at a revision to come", reads[i].read(), kv.ErrUnavailable)
		return nil
	})
}
