package kv_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"kvbus/kv"
)

func TestParseFilter(t *testing.T) {
	dots := strings.Repeat("=.", kv.MaxKeyLength) // of a key of that many, but for the last token
	for _, pattern := range []string{"*", "a", "a.*", "a.>", "*.>", "=", "a.=.b", "=.=", "a.=", "größe.*", "a/b:c-d_e", dots + "="} {
		f, err := kv.ParseFilter(pattern)
		if err != nil || f.String() != pattern || f.IsZero() {
			t.Errorf("ParseFilter(%q): %v, zero %v, %v", pattern, f, f.IsZero(), err)
		}
	}
	for _, pattern := range []string{"", ">"} {
		f, err := kv.ParseFilter(pattern)
		if err != nil || f != (kv.Filter{}) || f.String() != ">" || !f.IsZero() || !f.Match("a") || f.Literal() != "" {
			t.Errorf("ParseFilter(%q): %v, %v; want the zero Filter", pattern, f, err)
		}
	}
	for _, pattern := range []string{
		".", "a.", ".a", "a..b", ">.a", "a.>.b", "a*", "*a", "a>", "**", "=a", "==", "a b", "\xff", "e\u0301", strings.Repeat("k", 2049), dots + "ab", dots + "=.=",
	} {
		if f, err := kv.ParseFilter(pattern); !errors.Is(err, kv.ErrInvalidArgument) {
			t.Errorf("ParseFilter(%.40q): %v, %v; want %v", pattern, f, err, kv.ErrInvalidArgument)
		}
	}
}

func TestFilterLiteral(t *testing.T) {
	for pattern, want := range map[string]string{
		">": "", "*": "", "a": "a", "a.*": "a.", "a.>": "a.", "a.b.*.c": "a.b.", "=.a": ".a", "a.=": "a.", "a.=.>": "a..", "=": "", "=.=": ".",
	} {
		if got := parse(t, pattern).Literal(); got != want {
			t.Errorf("literal of %q: %q, want %q", pattern, got, want)
		}
	}
}

// matches is the rule of wildcards by recursion over tokens.
func matches(pattern, key []string) bool {
	switch {
	case len(pattern) == 0 || len(key) == 0:
		return len(pattern) == 0 && len(key) == 0
	case pattern[0] == ">":
		return true
	case pattern[0] == "*", pattern[0] == "=" && key[0] == "", pattern[0] == key[0]:
		return matches(pattern[1:], key[1:])
	}
	return false
}

func TestFilterMatchesByTokens(t *testing.T) {
	keyToken := rapid.SampledFrom([]string{"", "a", "b", "ab", "ä"})
	keys := rapid.Map(rapid.SliceOfN(keyToken, 1, 5), func(s []string) string { return strings.Join(s, ".") })
	patternToken := rapid.SampledFrom([]string{"=", "*", "a", "b", "ab", "ä"})
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(patternToken, 0, 5).Draw(t, "tokens")
		if len(tokens) == 0 || rapid.Bool().Draw(t, "open end") {
			tokens = append(tokens, ">")
		}
		pattern := strings.Join(tokens, ".")
		f, err := kv.ParseFilter(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			key := keys.Draw(t, "key")
			if key == "" {
				continue // no key
			}
			want := matches(tokens, strings.Split(key, "."))
			if got := f.Match(key); got != want {
				t.Fatalf("%q matches %q: %v, want %v", pattern, key, got, want)
			}
			if want && !strings.HasPrefix(key, f.Literal()) {
				t.Fatalf("%q matches %q, which does not start with %q", pattern, key, f.Literal())
			}
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add("a.*.>", "a.b.c")
	f.Add("=.a", ".a")
	f.Add("a.=", "a.")
	f.Fuzz(func(t *testing.T, pattern, key string) {
		filter, err := kv.ParseFilter(pattern)
		if err != nil || kv.ValidateKey(key) != nil {
			return
		}
		if again, err := kv.ParseFilter(filter.String()); err != nil || again != filter {
			t.Errorf("%q comes back as %q, %v", filter, again, err)
		}
		got, want := filter.Match(key), matches(strings.Split(filter.String(), "."), strings.Split(key, "."))
		if got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, key, got, want)
		}
		if got && !strings.HasPrefix(key, filter.Literal()) {
			t.Errorf("%q matches %q, which does not start with %q", pattern, key, filter.Literal())
		}
	})
}

func parse(t *testing.T, pattern string) kv.Filter {
	t.Helper()
	f, err := kv.ParseFilter(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
