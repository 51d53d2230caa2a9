package bus

import (
	"math"
	"testing"
	"time"
)

func TestParseTTL(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "1500000ns": 1500 * time.Microsecond,
		"1.5s": 1500 * time.Millisecond, "1ns": 1, "90": 90 * time.Second, "1": time.Second, "007": 7 * time.Second,
		"never": 0, "9223372036": 9223372036 * time.Second, "9223372036854775807ns": math.MaxInt64,
	} {
		if got, err := parseTTL(s); err != nil || got != want {
			t.Errorf("parseTTL(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "0", "0s", "0.1ns", "-1", "-1s", "+90", "1.5", " 90s", "90s ", "90s\n", "90 s", "Never", "NEVER", "forever",
		"9223372037", "18446744073709551616", "99999999999999999999999", "9223372036854775808ns", "300000000h",
		"٩٠", "0x10", "1e3", "90d", "NaN",
	} {
		if got, err := parseTTL(s); err == nil {
			t.Errorf("parseTTL(%q) = %v, want an error", s, got)
		}
	}
}

func FuzzHeaderTTL(f *testing.F) {
	f.Add("90s", int64(1))
	f.Add("never", int64(math.MaxInt64))
	f.Add("90", int64(1_234_567))
	f.Fuzz(func(t *testing.T, s string, n int64) {
		if d, err := parseTTL(s); err == nil {
			if d < 0 || d == 0 && s != never {
				t.Fatalf("parseTTL(%q) = %v", s, d)
			}
		}
		if n < 0 {
			return
		}
		d := time.Duration(n)
		if back, err := parseTTL(formatTTL(d)); err != nil || back != d {
			t.Fatalf("%d, as %q, came back as %d, %v", d, formatTTL(d), back, err)
		}
	})
}

func TestParseDelta(t *testing.T) {
	for s, want := range map[string]int64{
		"": 1, "0": 0, "5": 5, "+5": 5, "-5": -5, "007": 7,
		"9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64,
	} {
		if got, err := parseDelta([]byte(s)); err != nil || got != want {
			t.Errorf("parseDelta(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{" ", "1 ", "\n", "5\n", "1.0", "1e3", "0x1", "1_000", "--1", "+", "9223372036854775808", "-9223372036854775809", "٥"} {
		if got, err := parseDelta([]byte(s)); err == nil {
			t.Errorf("parseDelta(%q) = %v, want an error", s, got)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("user.42")
	f.Add("\xff\n")
	f.Fuzz(func(t *testing.T, cursor string) {
		s := formatCursor(cursor)
		if !isPrintable(s) {
			t.Fatalf("cursor %q is %q on the wire", cursor, s)
		}
		if back, err := parseCursor(s); err != nil || back != cursor {
			t.Fatalf("cursor %q came back as %q, %v", cursor, back, err)
		}
	})
}
