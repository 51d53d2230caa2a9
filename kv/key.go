package kv

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// MaxKeyLength is the length of the longest key, in bytes.
const MaxKeyLength = 1024

// ValidateKey returns nil if key is a valid key, else an [ErrInvalidKey] that
// says why. A key is 1 to [MaxKeyLength] bytes of UTF-8: characters that are
// Alphabetic or Number by the Unicode standard, and - _ . / :
func ValidateKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: a key has at least 1 byte", ErrInvalidKey)
	}
	return ValidatePrefix(key)
}

// ValidatePrefix is [ValidateKey] for a prefix of keys, which may be empty.
// A prefix ends between two characters, never within one.
func ValidatePrefix(prefix string) error {
	if len(prefix) > MaxKeyLength {
		return fmt.Errorf("%w: %d bytes, the longest key has %d", ErrInvalidKey, len(prefix), MaxKeyLength)
	}
	for i := 0; i < len(prefix); {
		if c := prefix[i]; c < utf8.RuneSelf {
			if !asciiKeyChar[c] {
				return fmt.Errorf("%w: %q has %q at byte %d; letters, numbers and - _ . / : are allowed", ErrInvalidKey, prefix, c, i)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(prefix[i:])
		if r == utf8.RuneError && size == 1 {
			return fmt.Errorf("%w: %q is not UTF-8 at byte %d", ErrInvalidKey, prefix, i)
		}
		if !isAlphabetic(r) && !unicode.IsNumber(r) {
			return fmt.Errorf("%w: %q has %q at byte %d; letters, numbers and - _ . / : are allowed", ErrInvalidKey, prefix, r, i)
		}
		i += size
	}
	return nil
}

// isAlphabetic reports whether r has the derived property Alphabetic, which is
// Lu+Ll+Lt+Lm+Lo + Nl + Other_Alphabetic (DerivedCoreProperties.txt).
func isAlphabetic(r rune) bool {
	return unicode.IsLetter(r) || unicode.In(r, unicode.Nl, unicode.Other_Alphabetic)
}

var asciiKeyChar = func() (t [utf8.RuneSelf]bool) {
	for _, r := range []struct{ lo, hi byte }{{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {'-', '/'}, {':', ':'}, {'_', '_'}} {
		for c := r.lo; c <= r.hi; c++ {
			t[c] = true
		}
	}
	return t
}()
