package kv

import (
	"fmt"
	"strings"
	"time"
)

// An Op is what a [Command] does.
type Op uint8

// The operations that change a store.
const (
	// OpSet writes Value under Key.
	OpSet Op = iota + 1
	// OpCompareAndSwap writes Value under Key if Expect holds.
	OpCompareAndSwap
	// OpIncrement adds Delta to the number under Key, saturating at both ends
	// of int64; a key that is not there counts as 0.
	OpIncrement
	// OpDelete removes Key.
	OpDelete
	// OpTouch moves the deadline of Key to TTL from now, and leaves the value.
	OpTouch
	// OpClear removes every key that starts with Key, which may be empty.
	OpClear
	// OpSetLimits replaces the limits by Limits. It makes no event; entries
	// that are over a new limit stay.
	OpSetLimits
	// OpSweep removes what has expired, as the store does by itself shortly
	// after each deadline.
	OpSweep
)

var opNames = [...]string{
	OpSet: "set", OpCompareAndSwap: "cas", OpIncrement: "incr", OpDelete: "delete",
	OpTouch: "touch", OpClear: "clear", OpSetLimits: "set-limits", OpSweep: "sweep",
}

// String returns the name of the operation, as in the subjects of the bus
// where it has one.
func (o Op) String() string {
	if o == 0 || int(o) >= len(opNames) {
		return fmt.Sprintf("Op(%d)", uint8(o))
	}
	return opNames[o]
}

// OnKey reports whether the operation is on one key.
func (o Op) OnKey() bool { return o >= OpSet && o <= OpTouch }

// A Command is one request to change a store. It takes effect as a whole or
// not at all.
type Command struct {
	Op Op
	// Key is the key; for [OpClear] a prefix of keys.
	Key string
	// Value is what [OpSet] and [OpCompareAndSwap] write.
	Value string
	// Delta is what [OpIncrement] adds.
	Delta int64
	// TTL is the life of the entry from the moment the command takes effect,
	// for [OpSet], [OpCompareAndSwap], [OpIncrement] and [OpTouch]. Zero means
	// no deadline. A deadline later than the year 2262 is as that year.
	TTL time.Duration
	// KeepTTL leaves a live key its deadline, or its lack of one; TTL then
	// counts only where the write creates the key. For [OpSet],
	// [OpCompareAndSwap] and [OpIncrement].
	KeepTTL bool
	// Expect is what must hold for the command to take effect:
	// [OpCompareAndSwap] needs one, [OpSet] and [OpDelete] take one by revision.
	Expect Expectation
	// Limits are the new limits of [OpSetLimits].
	Limits Limits
	// Trace is carried on to the events of the command.
	Trace Trace
	// RequestID makes a command on keys safe to repeat; see [Store.Do]. It is up
	// to [MaxRequestIDLength] characters of ASCII from '!' to '~'; empty for none.
	RequestID string
}

// MaxRequestIDLength is the length of the longest [Command.RequestID], in bytes.
const MaxRequestIDLength = 128

// IsRequestID reports whether id keeps the rule of [Command.RequestID]; the empty one
// does not.
func IsRequestID(id string) bool {
	return id != "" && len(id) <= MaxRequestIDLength &&
		!strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
}

// An ExpectKind says what an [Expectation] compares.
type ExpectKind uint8

// The kinds of expectations.
const (
	// ExpectAny is always met.
	ExpectAny ExpectKind = iota
	// ExpectAbsent is met if no live key is there.
	ExpectAbsent
	// ExpectValue is met if a live key has exactly that value.
	ExpectValue
	// ExpectRevision is met if a live key has that revision, or, for revision 0,
	// if no live key is there.
	ExpectRevision
)

// An Expectation is a condition on the current state of a key. An entry whose
// deadline has passed is not there.
type Expectation struct {
	Kind     ExpectKind
	Value    string
	Revision uint64
}

// IfAbsent expects that no live key is there.
func IfAbsent() Expectation { return Expectation{Kind: ExpectAbsent} }

// IfValue expects a live key with that value.
func IfValue(value string) Expectation { return Expectation{Kind: ExpectValue, Value: value} }

// IfRevision expects a live key with that revision; 0 expects that none is there.
func IfRevision(revision uint64) Expectation {
	return Expectation{Kind: ExpectRevision, Revision: revision}
}

// A Result is the answer to a [Command].
type Result struct {
	// Applied says whether the command changed its key: false for a
	// compare-and-swap that does not hold, and for a delete or a touch of no
	// live key.
	Applied bool
	// Revision is the revision of the entry written or removed. Where the
	// command did not apply, it is the revision of the live entry, 0 where there
	// is none; this holds for an [ErrConflict] too.
	Revision uint64
	// ExpiresAt is the deadline of the entry written, zero where it has none.
	ExpiresAt time.Time
	// Number is the new number of an increment, and how many keys a clear or
	// a sweep removed.
	Number int64
}

// Validate fails with [ErrInvalidKey] or [ErrInvalidArgument] if the command
// is malformed whatever the state of the store.
func (c *Command) Validate() error {
	switch {
	case c.Op.OnKey():
		if err := ValidateKey(c.Key); err != nil {
			return err
		}
	case c.Op == OpClear:
		if err := ValidatePrefix(c.Key); err != nil {
			return err
		}
	case c.Op == OpSetLimits:
		if err := c.Limits.Validate(); err != nil {
			return err
		}
	case c.Op == OpSweep:
	default:
		return fmt.Errorf("%w: unknown operation %v", ErrInvalidArgument, c.Op)
	}
	return c.ValidateArguments()
}

// ValidateArguments is [Command.Validate] without the look at the key, for
// commands on a key that is known to be valid.
func (c *Command) ValidateArguments() error {
	if c.TTL < 0 {
		return refuseTTL(c.TTL)
	}
	switch kind := c.Expect.Kind; c.Op {
	case OpCompareAndSwap:
		if kind == ExpectAny || kind > ExpectRevision {
			return fmt.Errorf("%w: a compare-and-swap needs an expectation: absent, a value or a revision", ErrInvalidArgument)
		}
	case OpSet, OpDelete:
		if kind != ExpectAny && kind != ExpectRevision {
			return fmt.Errorf("%w: %v takes an expectation by revision only", ErrInvalidArgument, c.Op)
		}
	default:
		if kind != ExpectAny {
			return fmt.Errorf("%w: %v takes no expectation", ErrInvalidArgument, c.Op)
		}
	}
	if c.RequestID == "" {
		return nil
	}
	return c.validateRequestID()
}

func refuseTTL(ttl time.Duration) error {
	return fmt.Errorf("%w: TTL %v; it is at least 1ns", ErrInvalidArgument, ttl)
}

func (c *Command) validateRequestID() error {
	if !c.Op.OnKey() && c.Op != OpClear {
		return fmt.Errorf("%w: %v takes no request id", ErrInvalidArgument, c.Op)
	}
	if !IsRequestID(c.RequestID) {
		return fmt.Errorf("%w: a request id of %d bytes that begins with %.*q; it is 1 to %d characters of printable ASCII without spaces",
			ErrInvalidArgument, len(c.RequestID), MaxRequestIDLength, c.RequestID, MaxRequestIDLength)
	}
	return nil
}
