package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. As text it is a whole number with one of the
// units B, KiB, MiB, GiB (powers of 1024), KB, MB, GB (powers of 1000), in any
// case, or with none. Its text is never negative.
type Size int64

// The units of a [Size].
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30

	KB Size = 1e3
	MB Size = 1e6
	GB Size = 1e9
)

var (
	errSizeSyntax = errors.New("must be a whole number of bytes, or one with B, KiB, MiB, GiB, KB, MB or GB (1MiB)")
	errSizeRange  = fmt.Errorf("must be at most %d bytes", int64(math.MaxInt64))
)

// ParseSize reads a size such as 1048576, 1MiB or "64 MB". Its errors state the
// rule that was broken and leave naming the input to the caller.
func ParseSize(text string) (Size, error) {
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	if digits == 0 {
		return 0, errSizeSyntax
	}
	unit, err := unitSize(strings.TrimPrefix(text[digits:], " "))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) {
		return 0, errSizeRange
	}
	return Size(n) * unit, nil
}

func unitSize(unit string) (Size, error) {
	switch strings.ToLower(unit) {
	case "", "b":
		return 1, nil
	case "kib":
		return KiB, nil
	case "mib":
		return MiB, nil
	case "gib":
		return GiB, nil
	case "kb":
		return KB, nil
	case "mb":
		return MB, nil
	case "gb":
		return GB, nil
	default:
		return 0, errSizeSyntax
	}
}

// String returns the size in the largest power-of-1024 unit that gives a whole
// number (1MiB, 1000B, 0B), so that [ParseSize] reads back the same size.
func (s Size) String() string {
	switch {
	case s == 0:
		return "0B"
	case s%GiB == 0:
		return strconv.FormatInt(int64(s/GiB), 10) + "GiB"
	case s%MiB == 0:
		return strconv.FormatInt(int64(s/MiB), 10) + "MiB"
	case s%KiB == 0:
		return strconv.FormatInt(int64(s/KiB), 10) + "KiB"
	default:
		return strconv.FormatInt(int64(s), 10) + "B"
	}
}
