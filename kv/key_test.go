package kv_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"kvbus/kv"
)

func TestValidateKey(t *testing.T) {
	for _, c := range []struct {
		key   string
		valid bool
	}{
		{"a", true}, {"Z9", true}, {"-_./:", true}, {"a..b", true}, {".a", true}, {"a.", true}, {".", true},
		{"größe", true}, {"имя", true}, {"名前", true}, {"اسم", true}, {"नाम", true}, {"ǅ", true}, {"ʰ", true},
		{"٣", true}, {"Ⅷ", true}, {"½", true}, {"²", true}, {"𝟘", true}, // Nd, Nl and No
		{"\u0345", true}, {"\u093e", true}, {"\u24b6", true}, // Other_Alphabetic
		{strings.Repeat("k", 1024), true}, {strings.Repeat("é", 512), true},
		{strings.Repeat("k", 1025), false}, {strings.Repeat("é", 512) + "k", false},
		{"", false}, {" ", false}, {"a b", false}, {"a\n", false}, {"\x00", false}, {"\x7f", false}, {"\u00a0", false},
		{"*", false}, {">", false}, {"=", false}, {"a=b", false}, {"+", false}, {",", false}, {";", false}, {"@", false},
		{"e\u0301", false}, {"\u094d", false}, {"\u200d", false}, {"\ufe0f", false}, {"\ufeff", false},
		{"😀", false}, {"€", false}, {"\u2010", false}, {"\ufffd", false}, {"\ue000", false},
		{"\x80", false}, {"\xff", false}, {"a\xe4\xb8", false}, {"\xc0\xaf", false}, {"\xed\xa0\x80", false}, {"\xf4\x90\x80\x80", false},
	} {
		err := kv.ValidateKey(c.key)
		if (err == nil) != c.valid || err != nil && !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("ValidateKey(%.40q): %v, want valid %v", c.key, err, c.valid)
		}
		if want := c.valid || c.key == ""; (kv.ValidatePrefix(c.key) == nil) != want {
			t.Errorf("ValidatePrefix(%.40q): want valid %v", c.key, want)
		}
	}
}

// keyRule states the rule once more, in another language, but for the
// characters that have Other_Alphabetic, which it has no word for.
var keyRule = regexp.MustCompile(`^[\p{L}\p{N}_./:-]*$`)

func obeysRule(key string) bool {
	plain := strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Properties["Other_Alphabetic"], r) {
			return 'a'
		}
		return r
	}, key)
	return key != "" && len(key) <= 1024 && utf8.ValidString(key) && keyRule.MatchString(plain)
}

// TestValidateEachCharacter goes through the planes of Unicode that have
// letters, which are 0 to 3.
func TestValidateEachCharacter(t *testing.T) {
	t.Parallel()
	valid := 0
	for r := range rune(0x4_0000) {
		if !utf8.ValidRune(r) {
			continue
		}
		got := kv.ValidateKey(string(r)) == nil
		if got != obeysRule(string(r)) {
			t.Errorf("%U: valid %v, want %v", r, got, !got)
		}
		if got {
			valid++
		}
	}
	if valid < 130_000 {
		t.Errorf("%d characters are valid; the letters alone are more", valid)
	}
}

func FuzzValidateKey(f *testing.F) {
	for _, key := range []string{"", "a", "a..b", "größe", "\u0345", "e\u0301", "½", "a b", "*", "\x80", "\xff", "\ufffd", strings.Repeat("é", 513)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		want := obeysRule(key)
		if err := kv.ValidateKey(key); (err == nil) != want {
			t.Errorf("ValidateKey(%q): %v, want valid %v", key, err, want)
		}
		// A key is valid if each of its characters is, and no others are.
		if utf8.ValidString(key) && len(key) <= 1024 {
			each := key != ""
			for _, r := range key {
				each = each && kv.ValidateKey(string(r)) == nil
			}
			if each != want {
				t.Errorf("%q: valid %v, but its characters one by one %v", key, want, each)
			}
		}
	})
}
