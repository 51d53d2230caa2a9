package config_test

import (
	"math"
	"strings"
	"testing"

	"kvbus/config"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Size{
		"0":                   0,
		"1":                   1,
		"1048576":             config.MiB,
		"007":                 7,
		"3B":                  3,
		"2KiB":                2 * config.KiB,
		"1MiB":                config.MiB,
		"1mib":                config.MiB,
		"1 ":                  1,
		"64 MiB":              64 * config.MiB,
		"3GiB":                3 * config.GiB,
		"5KB":                 5000,
		"5MB":                 5_000_000,
		"5GB":                 5_000_000_000,
		"9223372036854775807": math.MaxInt64,
	} {
		if got, err := config.ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestParseSizeRefuses(t *testing.T) {
	t.Parallel()
	for text, rule := range map[string]string{
		"":                     "whole number",
		" 1":                   "whole number",
		"1  MiB":               "whole number",
		"MiB":                  "whole number",
		"-1":                   "whole number",
		"+1":                   "whole number",
		"1.5MiB":               "whole number",
		"1e6":                  "whole number",
		"1TiB":                 "whole number",
		"1M":                   "whole number",
		"9223372036854775808":  "at most 9223372036854775807",
		"99999999999999999999": "at most 9223372036854775807",
		"8589934592GiB":        "at most 9223372036854775807",
	} {
		_, err := config.ParseSize(text)
		if err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("ParseSize(%q): error %v; want one with %q", text, err, rule)
		}
	}
}

func TestSizeText(t *testing.T) {
	t.Parallel()
	for size, want := range map[config.Size]string{
		0:                  "0B",
		1000:               "1000B",
		config.KiB:         "1KiB",
		1536:               "1536B",
		1536 * config.KiB:  "1536KiB",
		config.GiB:         "1GiB",
		1024 * config.GiB:  "1024GiB",
		math.MaxInt64:      "9223372036854775807B",
		2048 * config.KiB:  "2MiB",
		config.MB:          "1000000B",
		10 * config.KB / 2: "5000B",
	} {
		if got := size.String(); got != want {
			t.Errorf("Size(%d) = %q; want %q", int64(size), got, want)
		}
	}
}

func FuzzSizeRoundTrip(f *testing.F) {
	for _, text := range []string{"0", "1", "1MiB", "5 KB", "3gib", "1.5", "9223372036854775807", "-1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := config.ParseSize(text)
		if err != nil {
			return
		}
		if size < 0 {
			t.Fatalf("ParseSize(%q) = %d, below 0", text, size)
		}
		if again, err := config.ParseSize(size.String()); err != nil || again != size {
			t.Fatalf("%q is %d, printed as %v, which is %d (%v)", text, int64(size), size, int64(again), err)
		}
	})
}
