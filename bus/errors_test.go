package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

func TestFailuresBothWays(t *testing.T) {
	var e Encoder
	for _, row := range failures {
		for _, err := range []error{row.err, fmt.Errorf("%w: of key %q", row.err, "a"), fmt.Errorf("while at it: %w", row.err)} {
			m := e.Error(err)
			if got := m.Header.Get("Nats-Service-Error-Code"); got != strconv.Itoa(row.code) {
				t.Errorf("%v: code %s", err, got)
			}
			if got := m.Header.Get("KV-Error"); got != row.name {
				t.Errorf("%v: name %s", err, got)
			}
			want := err.Error()
			if slices.Contains([]string{"internal", "timeout", "unavailable", "overloaded"}, row.name) {
				want = row.err.Error() // what may be about the inside of the service is not told
			}
			if m.Header.Get("Nats-Service-Error") != want || len(m.Data) > 0 {
				t.Errorf("%v: %+v", err, m)
			}
			back := DecodeError(m.Header)
			for _, other := range failures {
				if errors.Is(back, other.err) != (other.name == row.name) {
					t.Errorf("%v came back as %v", err, back)
				}
			}
		}
	}
}

func TestFailureOf(t *testing.T) {
	for _, tt := range []struct {
		err        error
		name, text string
	}{
		{errors.New("dial 10.0.0.1"), "internal", "internal error"},
		{fmt.Errorf("%w: %w at 10.0.0.1", kv.ErrInternal, kv.ErrNotFound), "internal", "internal error"},
		{fmt.Errorf("%w: stream KV on 10.0.0.1", kv.ErrUnavailable), "unavailable", "store unavailable"},
		{kv.ErrClosed, "unavailable", "store unavailable"},
		{fmt.Errorf("%w: %w", kv.ErrUnavailable, kv.ErrTimeout), "timeout", "timeout"},
		{context.DeadlineExceeded, "timeout", "timeout"},
		{context.Canceled, "timeout", "timeout"},
		{fmt.Errorf("%w: %w", kv.ErrUnavailable, context.DeadlineExceeded), "unavailable", "store unavailable"},
		{errors.ErrUnsupported, "invalid_argument", "unsupported operation"},
		{fmt.Errorf("%w: filter: %w", kv.ErrInvalidArgument, kv.ErrInvalidKey), "invalid_argument", "invalid argument: filter: invalid key"},
		{fmt.Errorf("%w: a\r\nb\x00c\x7fd\xffe", kv.ErrNotFound), "not_found", "key not found: a  b c d e"},
		{kv.ErrNotText, "internal", "internal error"},
	} {
		if f := FailureOf(tt.err); f.Name != tt.name || f.Description != tt.text {
			t.Errorf("FailureOf(%q) = %+v, want %s: %s", tt.err, f, tt.name, tt.text)
		}
	}
}

// What is refused may be longer than a description; why it is refused stands after it.
func TestLongInputsAreToldWhy(t *testing.T) {
	_, before := kv.ParseFilter(strings.Repeat("k.", 500) + ">.x")
	_, inFilter := kv.ParseFilter(strings.Repeat("ü", 500) + "$")
	for _, tt := range []struct {
		err         error
		starts, why string
	}{
		{kv.ValidateKey(strings.Repeat("k", 1000) + "$"), `invalid key: "kkk`, `has '$' at byte 1000; letters, numbers and - _ . / : are allowed`},
		{kv.ValidateKey(strings.Repeat("ü", 500) + "*"), `invalid key: "üüü`, `'*' at byte 1000; letters, numbers and - _ . / : are allowed`},
		{kv.ValidateKey(strings.Repeat("日", 333) + "\xff"), `invalid key: "日日日`, `is not UTF-8 at byte 999`},
		{before, `invalid argument: filter "k.k`, `has > before its last token`},
		{inFilter, `invalid argument: filter "üüü`, `at byte 1000; letters, numbers and - _ . / : are allowed`},
	} {
		text := FailureOf(tt.err).Description
		if len(text) > maxDescription || !strings.HasPrefix(text, tt.starts) || !strings.HasSuffix(text, tt.why) {
			t.Errorf("%q, want %s… %s", text, tt.starts, tt.why)
		}
	}
}

func TestDecodeError(t *testing.T) {
	for _, tt := range []struct {
		header nats.Header
		want   error
		text   string
	}{
		{nil, nil, ""},
		{nats.Header{"KV-Revision": {"1"}}, nil, ""},
		{nats.Header{"KV-Error": {"not_found"}, "Nats-Service-Error": {"key not found: x"}}, kv.ErrNotFound, "key not found: x"},
		{nats.Header{"kv-error": {"not_found"}, "nats-service-error": {"no x"}}, kv.ErrNotFound, "key not found: no x"},
		{nats.Header{"KV-Error": {"not_found"}}, kv.ErrNotFound, "key not found"},
		{nats.Header{"KV-Error": {"of_the_future"}, "Nats-Service-Error-Code": {"418"}, "Nats-Service-Error": {"tea"}}, kv.ErrInternal, `internal error: service error "of_the_future", code "418": tea`},
		{nats.Header{"Nats-Service-Error-Code": {"404"}, "Nats-Service-Error": {"no"}}, kv.ErrInternal, `internal error: service error "", code "404": no`},
		{nats.Header{"Status": {"503"}}, kv.ErrUnavailable, "store unavailable: nobody serves this subject"},
		{nats.Header{"Status": {"100"}}, nil, ""},
	} {
		err := DecodeError(tt.header)
		if !errors.Is(err, tt.want) || (err != nil && err.Error() != tt.text) {
			t.Errorf("DecodeError(%v) = %v, want %s", tt.header, err, tt.text)
		}
	}
}

func FuzzHeaderSafe(f *testing.F) {
	f.Add("a\r\nb")
	f.Add(strings.Repeat("ü", 200))
	f.Fuzz(func(t *testing.T, s string) {
		safe := headerSafe(s)
		if len(safe) > maxDescription || !utf8.ValidString(safe) || strings.ContainsFunc(safe, unicode.IsControl) || strings.TrimSpace(safe) != safe {
			t.Fatalf("headerSafe(%q) = %q", s, safe)
		}
	})
}

// TestErrorsAreDocumented compares the table of errors in PROTOCOL.md with ours.
func TestErrorsAreDocumented(t *testing.T) {
	var documented []string
	for _, row := range tableRows(t, "Errors") {
		documented = append(documented, row[0]+" "+row[1])
	}
	var ours []string
	for _, row := range failures {
		ours = append(ours, strconv.Itoa(row.code)+" "+row.name)
	}
	slices.Sort(documented)
	slices.Sort(ours)
	if !slices.Equal(documented, ours) {
		t.Errorf("PROTOCOL.md has %q, the code %q", documented, ours)
	}
}
