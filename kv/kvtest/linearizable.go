package kvtest

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// Check returns nil if the history is one that a right store can have: for each
// key there is an order of the operations in which each answer is what the
// contract says, and which has no operation after one that was called when it
// had returned; and the revisions, which all keys share, rise with time. Else it
// says in an error what no right store would have answered.
//
// Reads that asked for [kv.Eventual] have no place in such an order. A check
// that isn't over after that time fails too; hundreds of operations on a key
// take milliseconds, as long as few outcomes are unknown.
func (h History) Check(patience time.Duration) error {
	if err := h.checkRevisions(); err != nil {
		return err
	}
	end := time.Now().Add(patience)
	keys := h.byKey()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		ops := keys[key]
		switch bad, result := ops.firstBad(end); result {
		case porcupine.Illegal:
			return &violation{key: key, history: bad}
		case porcupine.Unknown:
			return &violation{key: key, history: bad, undecided: patience}
		}
	}
	return nil
}

// A violation is what a check of one key has found.
type violation struct {
	key     string
	history History
	// undecided is the time after which the check gave up, 0 where it did not.
	undecided time.Duration
}

func (v *violation) Error() string {
	if v.undecided > 0 {
		return fmt.Sprintf("key %q: not known after %v whether its %d operations are linearizable, %d of them of unknown outcome",
			v.key, v.undecided, len(v.history), v.history.Count(Unknown))
	}
	last := slices.MaxFunc(v.history, func(a, b Operation) int { return cmp.Compare(a.known(), b.known()) })
	return fmt.Sprintf("key %q is not linearizable: with what was known after %v, no order explains what client %d was answered: %v",
		v.key, last.Return, last.Client, &last)
}

// known returns when the outcome was known, -1 for never.
func (op *Operation) known() time.Duration {
	if op.Outcome == Unknown {
		return -1
	}
	return op.Return
}

// byKey returns what matters of the history of each key: what was refused, and
// reads of unknown outcome, say nothing.
func (h History) byKey() map[string]History {
	owners := map[uint64]bool{}
	for i := range h {
		if h[i].Applied {
			owners[h[i].Revision] = true
		}
	}
	keys := map[string]History{}
	for _, op := range h {
		op.owned = !op.Applied && owners[op.Revision]
		op.expectOwned = owners[op.Expect.Revision]
		if op.Outcome != Refused && (op.Outcome != Unknown || op.Op != opGet) {
			keys[op.Key] = append(keys[op.Key], op)
		}
	}
	return keys
}

// firstBad checks the history of one key. Where it does not hold, it returns the
// part up to the first answer that can't be explained. It looks at the beginning
// first: a part that holds is quickly checked, and one that does not takes long
// in proportion to the unknown outcomes in it.
func (h History) firstBad(end time.Time) (History, porcupine.CheckResult) {
	var answers []time.Duration
	for i := range h {
		if h[i].Outcome != Unknown {
			answers = append(answers, h[i].Return)
		}
	}
	slices.Sort(answers)
	for good, n := 0, 0; good < len(answers); good = n {
		n = min(max(2*good, 64), len(answers))
		part := h.until(answers[n-1])
		switch result := decide(part, end); result {
		case porcupine.Illegal:
			first := good + sort.Search(n-1-good, func(i int) bool {
				return decide(h.until(answers[good+i]), end) == porcupine.Illegal
			})
			return h.until(answers[first]), result
		case porcupine.Unknown:
			return part, result
		}
	}
	return nil, porcupine.Ok
}

// until returns the history of one key as it was known at a moment: the outcome
// of what was under way is unknown, and nobody owns its revision yet.
func (h History) until(moment time.Duration) History {
	var before History
	untold := map[uint64]bool{}
	for _, op := range h {
		if op.Call > moment || op.Return > moment && op.Op == opGet {
			continue
		}
		if op.Return > moment {
			if op.Applied {
				untold[op.Revision] = true
			}
			op.Outcome = Unknown
			op.Applied, op.Revision, op.Number = false, 0, 0
		}
		before = append(before, op)
	}
	for i := range before {
		op := &before[i]
		op.owned = op.owned && !untold[op.Revision]
		op.expectOwned = op.expectOwned && !untold[op.Expect.Revision]
	}
	return before
}

// decide checks the history of one key, until end at the latest.
func decide(h History, end time.Time) porcupine.CheckResult {
	left := time.Until(end)
	if left <= 0 {
		return porcupine.Unknown
	}
	return porcupine.CheckOperationsTimeout(sequential(), h.operations(), left)
}

// operations returns the history of one key as porcupine takes it. What is of
// unknown outcome returns after the end of all others, in a lane of its own,
// because its client went on.
func (h History) operations() []porcupine.Operation {
	var end time.Duration
	lane := 0
	for i := range h {
		end = max(end, h[i].Call, h[i].known())
		lane = max(lane, h[i].Client)
	}
	ops := make([]porcupine.Operation, 0, len(h)+1)
	for i := range h {
		op := porcupine.Operation{ClientId: h[i].Client, Input: &h[i], Call: int64(h[i].Call), Return: int64(h[i].Return)}
		if h[i].Outcome == Unknown {
			lane++
			op.ClientId, op.Return = lane, int64(end+3)
		}
		ops = append(ops, op)
	}
	return append(ops, porcupine.Operation{
		ClientId: lane + 1, Input: &Operation{Op: opEnd}, Call: int64(end + 1), Return: int64(end + 2),
	})
}

// sequential returns the contract for one key in porcupine's form.
func sequential() porcupine.Model {
	seed := maphash.MakeSeed()
	return porcupine.Model{
		Init: func() any { return keyState{} },
		Step: func(state, input, _ any) (bool, any) {
			next, ok := state.(keyState).step(input.(*Operation))
			return ok, next
		},
		Hash:              func(state any) uint64 { return maphash.Comparable(seed, state.(keyState)) },
		DescribeOperation: func(input, _ any) string { return input.(*Operation).String() },
		DescribeState:     func(state any) string { return state.(keyState).String() },
	}
}

// checkRevisions checks what the revisions say beyond one key: no two mutations
// have the same, and a mutation has a later one than any that was told before
// it was called.
func (h History) checkRevisions() error {
	told := slices.DeleteFunc(slices.Clone(h), func(op Operation) bool {
		return op.Revision == 0 || op.Outcome != Done && op.Outcome != Conflict
	})
	slices.SortFunc(told, func(a, b Operation) int { return cmp.Compare(a.Return, b.Return) })
	mutations := map[uint64]Operation{}
	for _, op := range told {
		if !op.Applied {
			continue
		}
		if other, ok := mutations[op.Revision]; ok {
			return fmt.Errorf("two mutations have one revision: key %q: %v; key %q: %v", other.Key, &other, op.Key, &op)
		}
		mutations[op.Revision] = op
	}
	calls := slices.SortedFunc(maps.Values(mutations), func(a, b Operation) int { return cmp.Compare(a.Call, b.Call) })
	var newest Operation
	for _, op := range calls {
		for len(told) > 0 && told[0].Return < op.Call {
			if told[0].Revision > newest.Revision {
				newest = told[0]
			}
			told = told[1:]
		}
		if op.Revision <= newest.Revision {
			return fmt.Errorf("revisions went back: key %q: %v; called after that, key %q: %v", newest.Key, &newest, op.Key, &op)
		}
	}
	return nil
}
