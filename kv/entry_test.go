package kv_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"kvbus/kv"
)

func TestEventKindsRoundTrip(t *testing.T) {
	for kind, text := range map[kv.EventKind]string{
		kv.EventSet: "SET", kv.EventDelete: "DELETE", kv.EventExpire: "EXPIRE", kv.EventTouch: "TOUCH",
	} {
		if kind.String() != text {
			t.Errorf("%q is written %q", text, kind)
		}
		if got, err := kv.ParseEventKind(text); err != nil || got != kind {
			t.Errorf("ParseEventKind(%q): %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "set", "SET ", "EventKind(0)", "EventKind(9)"} {
		if got, err := kv.ParseEventKind(text); !errors.Is(err, kv.ErrInvalidArgument) {
			t.Errorf("ParseEventKind(%q): %v, %v; want %v", text, got, err, kv.ErrInvalidArgument)
		}
	}
	for _, kind := range []kv.EventKind{0, 5, 255} {
		if _, err := kv.ParseEventKind(kind.String()); err == nil {
			t.Errorf("%v is parsed, though it is no kind", kind)
		}
	}
}

func TestEntryExpired(t *testing.T) {
	now := time.Unix(1000, 500)
	for _, c := range []struct {
		deadline time.Time
		want     bool
	}{{time.Time{}, false}, {now, true}, {now.Add(1), false}, {now.Add(-1), true}, {time.Unix(0, math.MaxInt64), false}} {
		if got := (kv.Entry{ExpiresAt: c.deadline}).Expired(now); got != c.want {
			t.Errorf("deadline %v at %v: expired %v, want %v", c.deadline, now, got, c.want)
		}
	}
}

func TestEntryText(t *testing.T) {
	if text, err := (kv.Entry{Value: "größe"}).Text(); err != nil || text != "größe" {
		t.Errorf("text: %q, %v", text, err)
	}
	if text, err := (kv.Entry{Value: "\xff"}).Text(); !errors.Is(err, kv.ErrNotText) {
		t.Errorf("text of invalid UTF-8: %q, %v", text, err)
	}
}

func TestErrors(t *testing.T) {
	if !errors.Is(kv.ErrClosed, kv.ErrUnavailable) {
		t.Error("a closed store is not unavailable")
	}
	lag := &kv.LagError{First: 3, Last: 7}
	if lag.Missed() != 5 || lag.Error() != "watcher lags: 5 revisions lost, 3 to 7" {
		t.Errorf("%d: %v", lag.Missed(), lag)
	}
}

func TestLimitsValidate(t *testing.T) {
	for _, l := range []kv.Limits{{}, kv.DefaultLimits(), {MaxKeys: math.MaxInt64, MaxValueSize: 1, MaxBytes: 1}} {
		if err := l.Validate(); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	for _, l := range []kv.Limits{{MaxKeys: -1}, {MaxValueSize: -1}, {MaxBytes: math.MinInt64}} {
		if err := l.Validate(); !errors.Is(err, kv.ErrInvalidArgument) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
