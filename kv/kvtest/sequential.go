package kvtest

import (
	"fmt"
	"strconv"

	"kvbus/kv"
)

// A keyState is all that is known of one key between two operations of a
// sequence, if the operations took effect in that order and were answered as
// the history says. It is a value, comparable with ==.
//
// It is not a [Model]: there an operation yields its answer, here the answer is
// given, and what it says of the revisions is taken in.
type keyState struct {
	live  bool
	value string
	// revision is that of the last mutation, 0 where no answer has told it.
	revision uint64
	// floor is the least revision that the last mutation of the key can have.
	floor uint64
	// unseen: the last mutation is of unknown outcome, and no answer bears it
	// out yet.
	unseen bool
	// over: all answers were explained.
	over bool
}

// opEnd is after all answers. What is of unknown outcome and comes later, never
// took effect.
const opEnd = "end"

// step returns the state after op, and false if op can't have been answered so
// in this state.
func (s keyState) step(op *Operation) (keyState, bool) {
	switch {
	case op.Op == opEnd:
		return keyState{over: true}, !s.unseen
	case op.Outcome == Unknown && s.over:
		return s, true
	case op.Outcome == Unknown:
		return s.perhaps(op)
	case s.unseen && op.Outcome == Done && op.blind():
		return s, false
	}
	s.unseen = false
	return s.answered(op)
}

// blind reports whether op leaves the same whatever was there.
func (op *Operation) blind() bool {
	return op.Op == kv.OpSet.String() && op.Expect.Kind == kv.ExpectAny
}

// perhaps returns the state after an op of unknown outcome that did take effect,
// and false if it can't have, or if nothing is gained by assuming so.
//
// It is enough to look at orders in which each op of unknown outcome is followed
// by one that depends on it, or by the end: any other stays right if the op is
// moved behind the end. Without this the number of orders to look at doubles
// with each op.
func (s keyState) perhaps(op *Operation) (keyState, bool) {
	if s.unseen && (op.blind() || op.Op == kv.OpDelete.String() && op.Expect.Kind == kv.ExpectAny) {
		return s, false
	}
	before, met := s.meeting(op)
	next, mutated := before.mutate(op)
	next.revision, next.floor, next.unseen = 0, before.floor+1, true
	return next, met && mutated
}

// answered returns the state after an op whose outcome is known.
func (s keyState) answered(op *Operation) (keyState, bool) {
	switch op.Outcome {
	case NotFound:
		return s, op.Op == opGet && !s.live
	case NotANumber:
		_, isNumber := s.add(op.Delta)
		return s, op.Op == kv.OpIncrement.String() && !isNumber
	case Conflict:
		return s.unmet(op)
	case Done:
	default:
		return s, false
	}
	switch {
	case op.Op == opGet:
		next, ok := s.at(op.Revision, op.owned)
		return next, ok && s.live && s.value == op.Read
	case op.Applied:
		return s.applied(op)
	case op.Op == kv.OpCompareAndSwap.String():
		return s.unmet(op)
	case op.Op == kv.OpDelete.String(), op.Op == kv.OpTouch.String():
		_, met := s.meeting(op)
		return s, met && !s.live && op.Revision == 0
	}
	return s, false
}

// applied returns the state after op took effect and its revision was told.
func (s keyState) applied(op *Operation) (keyState, bool) {
	s, met := s.meeting(op)
	next, mutated := s.mutate(op)
	if !met || !mutated || op.Revision <= s.floor {
		return s, false
	}
	if op.Op == kv.OpIncrement.String() && next.value != strconv.FormatInt(op.Number, 10) {
		return s, false
	}
	next.revision, next.floor = op.Revision, op.Revision
	return next, true
}

// mutate returns the state after op but for the revision, and false if op
// changes nothing.
func (s keyState) mutate(op *Operation) (keyState, bool) {
	switch op.Op {
	case kv.OpSet.String(), kv.OpCompareAndSwap.String():
		return keyState{live: true, value: op.Value}, true
	case kv.OpIncrement.String():
		number, ok := s.add(op.Delta)
		return keyState{live: true, value: strconv.FormatInt(number, 10)}, ok
	case kv.OpDelete.String():
		return keyState{}, s.live
	case kv.OpTouch.String():
		return s, s.live
	}
	return s, false
}

func (s keyState) add(delta int64) (int64, bool) {
	number, err := add(modelEntry{value: s.value}, s.live, delta)
	return number, err == nil
}

// meeting returns what is known if the expectation of op holds, and false if it
// does not.
func (s keyState) meeting(op *Operation) (keyState, bool) {
	switch expect := op.Expect; expect.Kind {
	case kv.ExpectAbsent:
		return s, !s.live
	case kv.ExpectValue:
		return s, s.live && s.value == expect.Value
	case kv.ExpectRevision:
		return s.at(expect.Revision, op.expectOwned)
	}
	return s, true
}

// unmet returns what is known if the expectation of op does not hold, and the
// answer told the revision of the key.
func (s keyState) unmet(op *Operation) (keyState, bool) {
	next, ok := s.at(op.Revision, op.owned)
	_, met := next.meeting(op)
	return next, ok && !met
}

// at returns what is known if the key has that revision, 0 for not there, and
// false if it has another one. A revision that is owned can't be that of a
// mutation of unknown outcome.
func (s keyState) at(revision uint64, owned bool) (keyState, bool) {
	switch {
	case !s.live || revision == 0:
		return s, !s.live && revision == 0
	case s.revision != 0:
		return s, s.revision == revision
	case revision < s.floor || owned:
		return s, false
	}
	s.revision, s.floor = revision, revision
	return s, true
}

func (s keyState) String() string {
	switch {
	case s.over:
		return "the end"
	case !s.live:
		return fmt.Sprintf("absent, after revision %d", s.floor)
	case s.revision == 0:
		return fmt.Sprintf("%.40q, revision %d or later", s.value, s.floor)
	}
	return fmt.Sprintf("%.40q, revision %d", s.value, s.revision)
}
