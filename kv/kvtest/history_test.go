package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"kvbus/kv"
)

// during puts a call and an answer in time.
func during(call, answer time.Duration, op Operation) Operation {
	op.Call, op.Return = call, answer
	if op.Key == "" {
		op.Key = "k"
	}
	return op
}

func readOf(value string, revision uint64) Operation {
	return Operation{Op: opGet, Outcome: Done, Read: value, Revision: revision}
}

func setOf(value string, revision uint64) Operation {
	return Operation{Op: "set", Value: value, Outcome: Done, Applied: true, Revision: revision}
}

func incrementOf(delta, number int64, revision uint64) Operation {
	return Operation{Op: "incr", Delta: delta, Outcome: Done, Applied: true, Number: number, Revision: revision}
}

// with gives an operation another outcome.
func with(outcome Outcome, op Operation) Operation {
	op.Outcome, op.Applied, op.Revision, op.Number = outcome, false, 0, 0
	return op
}

func TestHistories(t *testing.T) {
	conflict := func(expect kv.Expectation, revision uint64) Operation {
		return Operation{Op: "set", Expect: expect, Outcome: Conflict, Revision: revision}
	}
	swap := func(expect kv.Expectation, value string, applied bool, revision uint64) Operation {
		return Operation{Op: "cas", Expect: expect, Value: value, Outcome: Done, Applied: applied, Revision: revision}
	}
	absent := Operation{Op: opGet, Outcome: NotFound}
	other := func(op Operation) Operation { op.Key = "other"; return op }

	for _, c := range []struct {
		name string
		good bool
		ops  []Operation // one after the other, but for those that have times
	}{
		{"nothing", true, nil},
		{"absent at first", true, []Operation{absent, setOf("a", 1), readOf("a", 1)}},
		{"there at first", false, []Operation{readOf("a", 1)}},
		{"an older value", false, []Operation{setOf("a", 1), setOf("b", 2), readOf("a", 1)}},
		{"an older value, meanwhile", true, []Operation{setOf("a", 1), during(10, 20, setOf("b", 2)), during(11, 12, readOf("a", 1)), during(13, 14, readOf("b", 2))}},
		{"an older value, after the newer one", false, []Operation{setOf("a", 1), during(10, 20, setOf("b", 2)), during(11, 12, readOf("b", 2)), during(13, 14, readOf("a", 1))}},
		{"another revision", false, []Operation{setOf("a", 1), readOf("a", 2)}},
		{"a revision twice", false, []Operation{setOf("a", 1), other(setOf("b", 1))}},
		{"revisions that fall", false, []Operation{setOf("a", 2), other(setOf("b", 1))}},
		{"revisions that fall, meanwhile", true, []Operation{during(1, 4, setOf("a", 2)), during(2, 3, other(setOf("b", 1)))}},
		{"revisions that were read, and fall", false, []Operation{during(1, 20, setOf("a", 2)), during(2, 3, readOf("a", 2)), during(4, 5, other(setOf("b", 1)))}},
		{"no revision", false, []Operation{setOf("a", 0)}},

		{"refused", true, []Operation{with(Refused, setOf("a", 0)), absent}},
		{"refused, but seen", false, []Operation{with(Refused, setOf("a", 0)), readOf("a", 1)}},
		{"an error that the contract does not have", false, []Operation{with(NotFound, setOf("a", 0))}},

		{"unknown, never", true, []Operation{with(Unknown, setOf("a", 0)), absent}},
		{"unknown, at once", true, []Operation{with(Unknown, setOf("a", 0)), readOf("a", 1)}},
		{"unknown, later", true, []Operation{with(Unknown, setOf("a", 0)), setOf("b", 1), readOf("b", 1), readOf("a", 2)}},
		{"unknown, twice", false, []Operation{with(Unknown, setOf("a", 0)), readOf("a", 1), setOf("b", 2), readOf("a", 3)}},
		{"unknown, and undone", false, []Operation{with(Unknown, setOf("a", 0)), readOf("a", 1), absent}},
		{"unknown, and before its call", false, []Operation{readOf("a", 1), with(Unknown, setOf("a", 0))}},
		{"unknown, with the revision of another", false, []Operation{with(Unknown, setOf("a", 0)), other(setOf("b", 1)), readOf("a", 1)}},
		{"unknown, two in a row", true, []Operation{with(Unknown, setOf("5", 0)), with(Unknown, incrementOf(2, 0, 0)), readOf("7", 2)}},
		{"unknown, two in a row, of one revision", false, []Operation{with(Unknown, setOf("5", 0)), with(Unknown, incrementOf(2, 0, 0)), readOf("7", 1)}},
		{"unknown, overwritten and no gap", true, []Operation{with(Unknown, setOf("a", 0)), setOf("b", 1), readOf("b", 1)}},
		{"unknown, deleted", true, []Operation{with(Unknown, setOf("a", 0)), {Op: "delete", Outcome: Done, Applied: true, Revision: 2}, absent}},
		{"unknown swap that could not hold", false, []Operation{setOf("a", 1), with(Unknown, swap(kv.IfValue("x"), "b", false, 0)), readOf("b", 2)}},
		{"unknown read", true, []Operation{setOf("a", 1), with(Unknown, readOf("", 0))}},
		{"all unknown", true, []Operation{with(Unknown, setOf("a", 0)), with(Unknown, setOf("b", 0))}},

		{"conflict", true, []Operation{setOf("a", 1), conflict(kv.IfRevision(3), 1)}},
		{"conflict that tells another revision", false, []Operation{setOf("a", 2), conflict(kv.IfRevision(3), 1)}},
		{"conflict of what holds", false, []Operation{setOf("a", 1), conflict(kv.IfRevision(1), 1)}},
		{"conflict with what is absent", true, []Operation{conflict(kv.IfRevision(3), 0)}},
		{"swap", true, []Operation{swap(kv.IfAbsent(), "a", true, 1), swap(kv.IfValue("a"), "b", true, 2), swap(kv.IfRevision(2), "c", true, 3), readOf("c", 3)}},
		{"swap that must not hold", false, []Operation{setOf("a", 1), swap(kv.IfValue("b"), "c", true, 2)}},
		{"swap that must hold", false, []Operation{setOf("a", 1), swap(kv.IfValue("a"), "c", false, 1)}},
		{"swap over a later revision", false, []Operation{setOf("a", 1), setOf("a", 2), swap(kv.IfRevision(1), "b", true, 3)}},

		{"increments", true, []Operation{incrementOf(2, 2, 1), incrementOf(-3, -1, 2), readOf("-1", 2)}},
		{"increments that get lost", false, []Operation{incrementOf(2, 2, 1), incrementOf(2, 2, 2)}},
		{"increments at the end of the numbers", true, []Operation{setOf(fmt.Sprint(math.MaxInt64), 1), incrementOf(5, math.MaxInt64, 2)}},
		{"increment of text", true, []Operation{setOf("a", 1), with(NotANumber, incrementOf(1, 0, 0)), readOf("a", 1)}},
		{"increment of a number, refused", false, []Operation{setOf("1", 1), with(NotANumber, incrementOf(1, 0, 0))}},

		{"delete", true, []Operation{setOf("a", 1), {Op: "delete", Outcome: Done, Applied: true, Revision: 2}, absent}},
		{"delete of nothing", true, []Operation{{Op: "delete", Outcome: Done}}},
		{"delete that says nothing was there", false, []Operation{setOf("a", 1), {Op: "delete", Outcome: Done}}},
		{"touch", true, []Operation{setOf("a", 1), {Op: "touch", Outcome: Done, Applied: true, Revision: 2}, readOf("a", 2)}},
		{"touch without a revision", false, []Operation{setOf("a", 1), {Op: "touch", Outcome: Done, Applied: true, Revision: 2}, readOf("a", 1)}},
	} {
		h := History{}
		for i, op := range c.ops {
			if op.Return == 0 {
				op = during(time.Duration(2*i+1), time.Duration(2*i+2), op)
			}
			h = append(h, op)
		}
		if err := h.Check(time.Minute); (err == nil) != c.good {
			t.Errorf("%s: %v, want good %v", c.name, err, c.good)
		}
	}
}

// TestHistoryUntil looks at a good history at each moment: it is good at all of
// them.
func TestHistoryUntil(t *testing.T) {
	h := History{
		during(1, 10, setOf("a", 1)),
		during(2, 3, readOf("a", 1)),
		during(4, 9, Operation{Op: "cas", Value: "b", Expect: kv.IfRevision(1), Outcome: Done, Applied: true, Revision: 2}),
		during(5, 6, Operation{Op: "set", Expect: kv.IfRevision(1), Outcome: Conflict, Revision: 2}),
		during(6, 11, Operation{Op: "set", Expect: kv.IfRevision(1), Outcome: Conflict, Revision: 2}),
		during(7, 8, readOf("b", 2)),
	}
	for moment := range time.Duration(12) {
		part := h.byKey()["k"].until(moment)
		if result := decide(part, time.Now().Add(time.Minute)); result != porcupine.Ok {
			t.Errorf("at %d: %v of %v", moment, result, part)
		}
	}
}

func TestOutcomeOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Outcome
	}{
		{nil, Done},
		{kv.ErrNotFound, NotFound},
		{kv.ErrConflict, Conflict},
		{kv.ErrNotANumber, NotANumber},
		{kv.ErrClosed, Refused},
		{kv.ErrOverloaded, Refused},
		{kv.ErrQuotaExceeded, Refused},
		{errors.ErrUnsupported, Refused},
		{kv.ErrTimeout, Unknown},
		{context.Canceled, Unknown},
		{kv.ErrInternal, Unknown},
		{errors.New("something else"), Unknown},
		{fmt.Errorf("%w: %w", kv.ErrUnavailable, context.DeadlineExceeded), Unknown},
	} {
		if got := OutcomeOf(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

func TestRecorder(t *testing.T) {
	r := NewRecorder()
	s := r.Client(openFaulty(t, &faulty{}))
	ctx, h := t.Context(), kv.Of(s)
	for _, call := range []func() error{
		func() error { _, err := h.Set(ctx, "k", "v"); return err },
		func() error { _, err := h.Get(ctx, "k"); return err },
		func() error { _, err := h.Increment(ctx, "n", 2); return err },
		func() error { _, err := h.Len(ctx); return err },
	} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range []kv.Command{{Op: kv.OpClear}, {Op: kv.OpSet, Key: "k", TTL: 1}, {Op: kv.OpSet, Key: "k", RequestID: "1"}} {
		if _, err := s.Do(ctx, cmd); !errors.Is(err, kv.ErrInvalidArgument) {
			t.Errorf("%v: %v", cmd.Op, err)
		}
	}
	var got []string
	for _, op := range r.History() {
		got = append(got, fmt.Sprint(op.Key, " ", &op))
		if op.Call >= op.Return {
			t.Errorf("%v: called at %v, answered at %v", &op, op.Call, op.Return)
		}
	}
	want := []string{`k set "v" → applied, revision 1`, `k get → "v", revision 1`, `n incr by 2 → 2, revision 2`}
	if !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

func TestHistoryAsJSON(t *testing.T) {
	h := RecordHistory(t.Context(), []kv.Store{unsure(openFaulty(t, &faulty{}), 20)}, LinearizabilityOptions{})
	var b bytes.Buffer
	if err := h.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := ReadHistory(&b)
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("read back: %d operations of %d, %v; or others", len(got), len(h), err)
	}
	if _, err := ReadHistory(strings.NewReader(`{"client": 1, "server": 2}`)); err == nil {
		t.Error("a history with an unknown field was read")
	}
}
