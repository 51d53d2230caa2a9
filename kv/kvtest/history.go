package kvtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"kvbus/kv"
)

// A History is what clients asked of a store and what they were answered, in
// any order. Where it begins, none of its keys is there.
type History []Operation

// An Operation is one call and its answer. Keys and values are text, so that
// they survive as JSON.
type Operation struct {
	// Client is the number of the client that called.
	Client int `json:"client"`
	// Call and Return are when, by one clock for the whole history; in
	// nanoseconds as JSON.
	Call   time.Duration `json:"call"`
	Return time.Duration `json:"return"`

	// Op is "get" or the name of a [kv.Op] on one key.
	Op     string         `json:"op"`
	Key    string         `json:"key"`
	Value  string         `json:"value,omitzero"`
	Delta  int64          `json:"delta,omitzero"`
	Expect kv.Expectation `json:"expect,omitzero"`

	Outcome Outcome `json:"outcome"`
	// Error is the text of the error, for whoever reads the history.
	Error string `json:"error,omitzero"`
	// Applied, Revision and Number are those of a [kv.Result]; Revision is that
	// of the entry too, where one was read.
	Applied  bool   `json:"applied,omitzero"`
	Revision uint64 `json:"revision,omitzero"`
	Number   int64  `json:"number,omitzero"`
	// Read is the value that a get returned.
	Read string `json:"read,omitzero"`

	// owned says whether Revision is the one that another operation was told
	// for its mutation; expectOwned, the same of Expect.Revision.
	owned, expectOwned bool
}

// opGet is the name of a read; the others are named by [kv.Op.String].
const opGet = "get"

// An Outcome is what an answer says of the state of a key.
type Outcome string

// The outcomes.
const (
	// Done: there was no error.
	Done Outcome = "done"
	// NotFound, Conflict and NotANumber are [kv.ErrNotFound], [kv.ErrConflict]
	// and [kv.ErrNotANumber]: nothing was done, for a reason that the state of
	// the key must bear out.
	NotFound   Outcome = "not found"
	Conflict   Outcome = "conflict"
	NotANumber Outcome = "not a number"
	// Refused: nothing was done, whatever the state of the key.
	Refused Outcome = "refused"
	// Unknown: it took effect at some time after the call, or never.
	Unknown Outcome = "unknown"
)

// OutcomeOf classifies the error of a call. One that the contract does not name
// says nothing of what was done, and so is Unknown.
func OutcomeOf(err error) Outcome {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case err == nil:
		return Done
	case slices.ContainsFunc([]error{kv.ErrTimeout, context.Canceled, context.DeadlineExceeded}, is):
		return Unknown
	case is(kv.ErrNotFound):
		return NotFound
	case is(kv.ErrConflict):
		return Conflict
	case is(kv.ErrNotANumber):
		return NotANumber
	case slices.ContainsFunc([]error{
		kv.ErrOverloaded, kv.ErrUnavailable, kv.ErrInvalidKey, kv.ErrInvalidArgument,
		kv.ErrValueTooLarge, kv.ErrQuotaExceeded, errors.ErrUnsupported,
	}, is):
		return Refused
	}
	return Unknown
}

// Count returns how many operations had one of the outcomes.
func (h History) Count(outcomes ...Outcome) int {
	n := 0
	for i := range h {
		if slices.Contains(outcomes, h[i].Outcome) {
			n++
		}
	}
	return n
}

// Write writes the history as JSON, one operation a line.
func (h History) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	for i := range h {
		if err := enc.Encode(&h[i]); err != nil {
			return err
		}
	}
	return nil
}

// ReadHistory reads what [History.Write] wrote.
func ReadHistory(r io.Reader) (History, error) {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	var h History
	for {
		var op Operation
		switch err := dec.Decode(&op); {
		case errors.Is(err, io.EOF):
			return h, nil
		case err != nil:
			return nil, fmt.Errorf("operation %d of the history: %w", len(h)+1, err)
		}
		h = append(h, op)
	}
}

// String returns the operation as a call and its answer:
//
//	set "v" if revision 3 → conflict, revision 5
func (op *Operation) String() string {
	var b strings.Builder
	b.WriteString(op.Op)
	switch op.Op {
	case kv.OpSet.String(), kv.OpCompareAndSwap.String():
		fmt.Fprintf(&b, " %.40q", op.Value)
	case kv.OpIncrement.String():
		fmt.Fprintf(&b, " by %d", op.Delta)
	}
	switch op.Expect.Kind {
	case kv.ExpectAbsent:
		b.WriteString(" if absent")
	case kv.ExpectValue:
		fmt.Fprintf(&b, " if %.40q", op.Expect.Value)
	case kv.ExpectRevision:
		fmt.Fprintf(&b, " if revision %d", op.Expect.Revision)
	}
	b.WriteString(" → ")
	switch {
	case op.Outcome != Done:
		b.WriteString(string(op.Outcome))
	case op.Op == opGet:
		fmt.Fprintf(&b, "%.40q", op.Read)
	case !op.Applied:
		b.WriteString("not applied")
	case op.Op == kv.OpIncrement.String():
		fmt.Fprint(&b, op.Number)
	default:
		b.WriteString("applied")
	}
	if op.Revision > 0 {
		fmt.Fprintf(&b, ", revision %d", op.Revision)
	}
	return b.String()
}
