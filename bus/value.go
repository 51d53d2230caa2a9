package bus

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"time"
	"unsafe"

	"kvbus/kv"
)

// never is the life of a key without a deadline.
const never = "never"

// parseTTL reads a life: a Go duration, whole seconds, or never, which is 0.
// Nothing may surround it. The error says the rule without a sentinel.
func parseTTL(s string) (time.Duration, error) {
	if s == never {
		return 0, nil
	}
	if isDigits(s) {
		seconds, err := strconv.ParseUint(s, 10, 64)
		if err != nil || seconds > math.MaxInt64/uint64(time.Second) {
			return 0, fmt.Errorf("%q seconds are more than a duration holds, 292 years", clip(s))
		}
		if seconds == 0 {
			return 0, tooShort(s)
		}
		return time.Duration(seconds) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no Go duration (90s), no whole seconds (90), not never, or longer than 292 years", clip(s))
	}
	if d < 1 {
		return 0, tooShort(s)
	}
	return d, nil
}

func tooShort(ttl string) error {
	return fmt.Errorf("%q is too short: a life is at least 1ns", clip(ttl))
}

// formatTTL is the inverse of parseTTL.
func formatTTL(ttl time.Duration) string {
	if ttl == 0 {
		return never
	}
	return ttl.String()
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// parseRevision reads a decimal of 64 bits without a sign.
func parseRevision(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no unsigned 64-bit decimal", clip(s))
	}
	return n, nil
}

// parseDelta reads what an increment adds.
func parseDelta(body []byte) (int64, error) {
	if len(body) == 0 {
		return 1, nil
	}
	n, err := strconv.ParseInt(stringView(body), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: body %q is no signed 64-bit decimal", kv.ErrInvalidArgument, clip(string(body)))
	}
	return n, nil
}

// A cursor travels as base64: whatever a store puts into it, it is ASCII
// without spaces on the wire, and nobody is tempted to build one.
var cursorEncoding = base64.RawURLEncoding.Strict()

func formatCursor(cursor string) string {
	return cursorEncoding.EncodeToString([]byte(cursor))
}

func parseCursor(s string) (string, error) {
	cursor, err := cursorEncoding.DecodeString(s)
	if err != nil {
		return "", fmt.Errorf("%q is no cursor that a reply carried", clip(s))
	}
	return string(cursor), nil
}

// bytesView returns the bytes of s without a copy, for nats.go, which copies
// the body of a message into its buffer before a publish returns. Nobody may
// write to them.
func bytesView(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}

// stringView returns b as a string without a copy, for who keeps it no longer than b
// stays as it is.
func stringView(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}
