package kv_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"kvbus/kv"
)

func TestCommandValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		cmd  kv.Command
		want error
	}{
		{"set", kv.Command{Op: kv.OpSet, Key: "k"}, nil},
		{"set with a life", kv.Command{Op: kv.OpSet, Key: "k", TTL: 1}, nil},
		{"set with the longest life", kv.Command{Op: kv.OpSet, Key: "k", TTL: math.MaxInt64}, nil},
		{"set with a life below 0", kv.Command{Op: kv.OpSet, Key: "k", TTL: -1}, kv.ErrInvalidArgument},
		{"set by revision", kv.Command{Op: kv.OpSet, Key: "k", Expect: kv.IfRevision(3)}, nil},
		{"set by absence", kv.Command{Op: kv.OpSet, Key: "k", Expect: kv.IfAbsent()}, kv.ErrInvalidArgument},
		{"set by value", kv.Command{Op: kv.OpSet, Key: "k", Expect: kv.IfValue("v")}, kv.ErrInvalidArgument},
		{"set of no key", kv.Command{Op: kv.OpSet}, kv.ErrInvalidKey},
		{"set of a bad key and life", kv.Command{Op: kv.OpSet, Key: "*", TTL: -1}, kv.ErrInvalidKey},
		{"cas by absence", kv.Command{Op: kv.OpCompareAndSwap, Key: "k", Expect: kv.IfAbsent()}, nil},
		{"cas by value", kv.Command{Op: kv.OpCompareAndSwap, Key: "k", Expect: kv.IfValue("")}, nil},
		{"cas by revision", kv.Command{Op: kv.OpCompareAndSwap, Key: "k", Expect: kv.IfRevision(0)}, nil},
		{"cas by nothing", kv.Command{Op: kv.OpCompareAndSwap, Key: "k"}, kv.ErrInvalidArgument},
		{"cas by an unknown kind", kv.Command{Op: kv.OpCompareAndSwap, Key: "k", Expect: kv.Expectation{Kind: 4}}, kv.ErrInvalidArgument},
		{"increment", kv.Command{Op: kv.OpIncrement, Key: "k", Delta: math.MinInt64}, nil},
		{"increment by revision", kv.Command{Op: kv.OpIncrement, Key: "k", Expect: kv.IfRevision(1)}, kv.ErrInvalidArgument},
		{"delete", kv.Command{Op: kv.OpDelete, Key: "k"}, nil},
		{"delete by revision", kv.Command{Op: kv.OpDelete, Key: "k", Expect: kv.IfRevision(1)}, nil},
		{"delete by absence", kv.Command{Op: kv.OpDelete, Key: "k", Expect: kv.IfAbsent()}, kv.ErrInvalidArgument},
		{"touch", kv.Command{Op: kv.OpTouch, Key: "k"}, nil},
		{"touch of a bad key", kv.Command{Op: kv.OpTouch, Key: "a b"}, kv.ErrInvalidKey},
		{"clear of all", kv.Command{Op: kv.OpClear}, nil},
		{"clear of a prefix", kv.Command{Op: kv.OpClear, Key: "a."}, nil},
		{"clear of a bad prefix", kv.Command{Op: kv.OpClear, Key: "*"}, kv.ErrInvalidKey},
		{"limits", kv.Command{Op: kv.OpSetLimits, Limits: kv.DefaultLimits()}, nil},
		{"bad limits", kv.Command{Op: kv.OpSetLimits, Limits: kv.Limits{MaxKeys: -1}}, kv.ErrInvalidArgument},
		{"sweep", kv.Command{Op: kv.OpSweep}, nil},
		{"set with a request id", kv.Command{Op: kv.OpSet, Key: "k", RequestID: "!~"}, nil},
		{"touch with the longest request id", kv.Command{Op: kv.OpTouch, Key: "k", RequestID: strings.Repeat("x", kv.MaxRequestIDLength)}, nil},
		{"clear with a request id", kv.Command{Op: kv.OpClear, RequestID: "1"}, nil},
		{"delete with a long request id", kv.Command{Op: kv.OpDelete, Key: "k", RequestID: strings.Repeat("x", kv.MaxRequestIDLength+1)}, kv.ErrInvalidArgument},
		{"set with a space in the request id", kv.Command{Op: kv.OpSet, Key: "k", RequestID: "a b"}, kv.ErrInvalidArgument},
		{"set with a control character in the request id", kv.Command{Op: kv.OpSet, Key: "k", RequestID: "a\x7f"}, kv.ErrInvalidArgument},
		{"set with more than ASCII in the request id", kv.Command{Op: kv.OpSet, Key: "k", RequestID: "ä"}, kv.ErrInvalidArgument},
		{"sweep with a request id", kv.Command{Op: kv.OpSweep, RequestID: "1"}, kv.ErrInvalidArgument},
		{"limits with a request id", kv.Command{Op: kv.OpSetLimits, RequestID: "1"}, kv.ErrInvalidArgument},
		{"bad count of request ids", kv.Command{Op: kv.OpSetLimits, Limits: kv.Limits{MaxRequestIDs: -1}}, kv.ErrInvalidArgument},
		{"bad age of request ids", kv.Command{Op: kv.OpSetLimits, Limits: kv.Limits{MaxRequestAge: -1}}, kv.ErrInvalidArgument},
		{"nothing", kv.Command{}, kv.ErrInvalidArgument},
		{"an unknown operation", kv.Command{Op: kv.OpSweep + 1}, kv.ErrInvalidArgument},
	} {
		if err := c.cmd.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestOpString(t *testing.T) {
	for op, want := range map[kv.Op]string{
		kv.OpSet: "set", kv.OpCompareAndSwap: "cas", kv.OpIncrement: "incr", kv.OpDelete: "delete", kv.OpTouch: "touch",
		kv.OpClear: "clear", kv.OpSetLimits: "set-limits", kv.OpSweep: "sweep", 0: "Op(0)", 200: "Op(200)",
	} {
		if got := op.String(); got != want {
			t.Errorf("operation %d is called %q, want %q", uint8(op), got, want)
		}
	}
}
