package kv

import (
	"fmt"
	"strings"
)

// EmptyToken stands for an empty token of a key wherever NATS allows none, in
// subjects and in filters: the key "a..b" is the tokens "a.=.b". It is no key
// character, so the mapping is one-to-one.
const EmptyToken = "="

// A Filter selects keys by a NATS wildcard over their tokens, which dots
// separate: * matches one token, a > at the end matches one or more. An empty
// token is written as [EmptyToken]; * and > match it as they match any other.
// The zero Filter matches every key. Filters are comparable and immutable.
type Filter struct {
	pattern string
}

// ParseFilter checks pattern and returns its filter; the empty pattern and ">"
// give the zero Filter. It fails with [ErrInvalidArgument].
func ParseFilter(pattern string) (Filter, error) {
	if pattern == "" || pattern == ">" {
		return Filter{}, nil
	}
	// A key of dots alone has as many empty tokens as dots, and one more.
	if longest := 2*MaxKeyLength + 1; len(pattern) > longest {
		return Filter{}, fmt.Errorf("%w: filter of %d bytes, the longest has %d", ErrInvalidArgument, len(pattern), longest)
	}
	rest := pattern
	for more := true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		switch {
		case token == "*" || token == EmptyToken:
		case token == ">":
			if more {
				return Filter{}, fmt.Errorf("%w: filter %q has > before its last token", ErrInvalidArgument, pattern)
			}
		case token == "":
			return Filter{}, fmt.Errorf("%w: filter %q has an empty token; write it as %s", ErrInvalidArgument, pattern, EmptyToken)
		default:
			if err := ValidatePrefix(token); err != nil {
				return Filter{}, fmt.Errorf("%w: filter %q: %w", ErrInvalidArgument, pattern, err)
			}
		}
	}
	return Filter{pattern}, nil
}

// String returns the pattern, ">" for the zero Filter.
func (f Filter) String() string {
	if f.pattern == "" {
		return ">"
	}
	return f.pattern
}

// IsZero reports whether f is the zero Filter, which matches every key.
func (f Filter) IsZero() bool { return f.pattern == "" }

// Match reports whether f selects key.
func (f Filter) Match(key string) bool {
	if f.pattern == "" {
		return true
	}
	pattern := f.pattern
	for {
		want, restPattern, morePattern := strings.Cut(pattern, ".")
		if want == ">" {
			return true
		}
		have, restKey, moreKey := strings.Cut(key, ".")
		switch want {
		case "*":
		case EmptyToken:
			if have != "" {
				return false
			}
		default:
			if have != want {
				return false
			}
		}
		if morePattern != moreKey {
			return false
		}
		if !morePattern {
			return true
		}
		pattern, key = restPattern, restKey
	}
}

// Literal returns the longest raw prefix that every key selected by f has.
func (f Filter) Literal() string {
	var b strings.Builder
	for token := range strings.SplitSeq(f.pattern, ".") {
		if token == "*" || token == ">" {
			return b.String()
		}
		if token != EmptyToken {
			b.WriteString(token)
		}
		b.WriteByte('.')
	}
	return strings.TrimSuffix(b.String(), ".")
}
