package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// A Failure is an error as the wire carries it.
type Failure struct {
	// Code is the value of Nats-Service-Error-Code, such as "404".
	Code string
	// Name is the value of KV-Error, such as "not_found". Names never change.
	Name string
	// Description is the value of Nats-Service-Error: one line for people.
	Description string
}

// failureRow is one row of the table of errors.
type failureRow struct {
	code int
	name string
	err  error
	// told: the text of the error is about the request, and its sender may
	// read it. The others may be about the inside of the service.
	told bool
}

// failures is the table of errors, in both directions. An error that wraps
// several of them is the first: internal hides what it wraps, a malformed
// argument may be malformed by a key in it, and a timeout promises less than
// the others.
var failures = [...]failureRow{
	{500, "internal", kv.ErrInternal, false},
	{504, "timeout", kv.ErrTimeout, false},
	{503, "unavailable", kv.ErrUnavailable, false},
	{429, "overloaded", kv.ErrOverloaded, false},
	{400, "invalid_argument", kv.ErrInvalidArgument, true},
	{400, "invalid_key", kv.ErrInvalidKey, true},
	{404, "not_found", kv.ErrNotFound, true},
	{409, "not_a_number", kv.ErrNotANumber, true},
	{409, "conflict", kv.ErrConflict, true},
	{410, "compacted", kv.ErrCompacted, true},
	{413, "value_too_large", kv.ErrValueTooLarge, true},
	{507, "quota_exceeded", kv.ErrQuotaExceeded, true},
}

// failureOf returns the row of an error; that of internal for an unknown one.
// A context that ended is a timeout, whether it was cancelled or late: the
// outcome is not known.
func failureOf(err error) *failureRow {
	for i := range failures {
		if errors.Is(err, failures[i].err) {
			return &failures[i]
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return failureNamed("timeout")
	case errors.Is(err, errors.ErrUnsupported):
		return failureNamed("invalid_argument")
	default:
		return failureNamed("internal")
	}
}

// failureNamed returns the row of a wire name, nil where there is none.
func failureNamed(name string) *failureRow {
	for i := range failures {
		if failures[i].name == name {
			return &failures[i]
		}
	}
	return nil
}

// FailureOf returns err, which is not nil, as the wire carries it. The
// description is the text of the error where that is about the request, made
// fit for a header; otherwise it is fixed and tells nothing of the inside.
func FailureOf(err error) Failure {
	row := failureOf(err)
	f := Failure{Code: strconv.Itoa(row.code), Name: row.name, Description: row.err.Error()}
	if row.told {
		if text := headerSafe(err.Error()); text != "" {
			f.Description = text
		}
	}
	return f
}

// maxDescription is the length of the longest description, in bytes.
const maxDescription = 256

// headerSafe makes a header value of a text: one line of printable characters,
// not longer than maxDescription. What has no room is left out of the middle: an
// error names what it refuses, however long, and says why after it.
func headerSafe(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(leaveOut(s, 4*maxDescription), " "))
	return leaveOut(strings.TrimSpace(s), maxDescription)
}

// leaveOut shortens s to longest bytes; the last quarter of them is its end.
func leaveOut(s string, longest int) string {
	if len(s) <= longest {
		return s
	}
	const ellipsis = "…"
	end := longest / 4
	head, tail := longest-end-len(ellipsis), len(s)-end
	for head > 0 && !utf8.RuneStart(s[head]) {
		head--
	}
	for tail < len(s) && !utf8.RuneStart(s[tail]) {
		tail++
	}
	return s[:head] + ellipsis + s[tail:]
}

// A remoteError is an error that came over the wire.
type remoteError struct {
	sentinel error
	text     string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }

// DecodeError returns the error that a reply carries in its headers, nil if it
// carries none. The error wraps the sentinel of [kv] that its name stands for;
// [kv.ErrInternal] if the name is unknown here. The answer of NATS itself that
// nobody listens is [kv.ErrUnavailable].
func DecodeError(header nats.Header) error {
	if len(header) == 0 {
		return nil
	}
	var hs headers
	hs.read(header)
	return hs.failure()
}

func (hs *headers) failure() error {
	name, named := hs.token(idError)
	code, coded := hs.token(idServiceErrorCode)
	if !named && !coded {
		if status, _ := hs.token(idStatus); status == "503" {
			return fmt.Errorf("%w: nobody serves this subject", kv.ErrUnavailable)
		}
		return nil
	}
	description, _ := hs.token(idServiceError)
	row := failureNamed(name)
	if row == nil {
		return fmt.Errorf("%w: service error %q, code %q: %s", kv.ErrInternal, clip(name), clip(code), headerSafe(description))
	}
	if !strings.HasPrefix(description, row.err.Error()) {
		description = strings.TrimSuffix(row.err.Error()+": "+description, ": ")
	}
	return &remoteError{sentinel: row.err, text: description}
}
