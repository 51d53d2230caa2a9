package kv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"kvbus/kv"
	"kvbus/kv/kvtest"
)

func newHandle(t *testing.T) kv.Handle {
	t.Helper()
	store := kvtest.NewModelStore(kvtest.Options{Limits: kv.DefaultLimits()})
	t.Cleanup(func() { store.Close() })
	return kv.Of(store)
}

// spy keeps the last command that it was given.
type spy struct {
	kv.Store
	cmd kv.Command
	err error
}

func (s *spy) Do(_ context.Context, cmd kv.Command) (kv.Result, error) {
	s.cmd = cmd
	return kv.Result{Applied: true, Revision: 7, Number: 5}, s.err
}

func TestHandleCommands(t *testing.T) {
	ctx, s := t.Context(), &spy{}
	h := kv.Of(s)
	for _, c := range []struct {
		want kv.Command
		call func() (any, error)
		give any
	}{
		{kv.Command{Op: kv.OpSet, Key: "k", Value: "v"}, func() (any, error) { return h.Set(ctx, "k", "v") }, uint64(7)},
		{
			kv.Command{Op: kv.OpSet, Key: "k", Value: "v", TTL: time.Minute, KeepTTL: true, Expect: kv.IfRevision(3)},
			func() (any, error) {
				return h.Set(ctx, "k", "v", kv.WithTTL(time.Minute), kv.KeepTTL(), kv.AtRevision(3))
			},
			uint64(7),
		},
		{
			kv.Command{Op: kv.OpSet, Key: "k", RequestID: "1"},
			func() (any, error) { return h.Set(ctx, "k", "", kv.WithRequestID("1")) }, uint64(7),
		},
		{kv.Command{Op: kv.OpIncrement, Key: "k", Delta: -2}, func() (any, error) { return h.Increment(ctx, "k", -2) }, int64(5)},
		{kv.Command{Op: kv.OpDelete, Key: "k"}, func() (any, error) { return h.Delete(ctx, "k") }, true},
		{
			kv.Command{Op: kv.OpDelete, Key: "k", Expect: kv.IfRevision(0)},
			func() (any, error) { return h.Delete(ctx, "k", kv.AtRevision(0)) }, true,
		},
		{kv.Command{Op: kv.OpTouch, Key: "k", TTL: time.Hour}, func() (any, error) { return h.Touch(ctx, "k", time.Hour) }, true},
		{kv.Command{Op: kv.OpClear, Key: "p"}, func() (any, error) { return h.Clear(ctx, "p") }, int64(5)},
		{kv.Command{Op: kv.OpSweep}, func() (any, error) { return h.Sweep(ctx) }, int64(5)},
		{
			kv.Command{Op: kv.OpSetLimits, Limits: kv.Limits{MaxKeys: 2}},
			func() (any, error) { return nil, h.SetLimits(ctx, kv.Limits{MaxKeys: 2}) }, nil,
		},
		{
			kv.Command{Op: kv.OpCompareAndSwap, Key: "k", Value: "v", Expect: kv.IfValue("w"), KeepTTL: true},
			func() (any, error) {
				swapped, revision, err := h.CompareAndSwap(ctx, "k", kv.IfValue("w"), "v", kv.KeepTTL())
				return fmt.Sprint(swapped, revision), err
			},
			"true 7",
		},
	} {
		if got, err := c.call(); err != nil || s.cmd != c.want || got != c.give {
			t.Errorf("%v: gave %+v and got %v, %v; want %+v and %v", c.want.Op, s.cmd, got, err, c.want, c.give)
		}
		s.err = kv.ErrOverloaded
		if _, err := c.call(); !errors.Is(err, kv.ErrOverloaded) {
			t.Errorf("%v: error %v, want %v", c.want.Op, err, s.err)
		}
		s.err = nil
	}
}

// failing is a store that can't be described.
type failing struct{ kv.Store }

func (failing) Info(context.Context) (kv.Info, error) { return kv.Info{}, kv.ErrUnavailable }

// What can't be asked is not taken for a store without keys and limits.
func TestHandleInfoFails(t *testing.T) {
	h := kv.Of(failing{})
	if _, err := h.Len(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("len: %v, want %v", err, kv.ErrUnavailable)
	}
	if _, err := h.Limits(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("limits: %v, want %v", err, kv.ErrUnavailable)
	}
}

// An option that would be lost, or mean something else, is refused.
func TestHandleRefuses(t *testing.T) {
	ctx, s := t.Context(), &spy{}
	h := kv.Of(s)
	for says, call := range map[string]func() error{
		"TTL 0s":                  func() error { _, err := h.Set(ctx, "k", "", kv.WithTTL(0)); return err },
		"a request id of 0 bytes": func() error { _, err := h.Delete(ctx, "k", kv.WithRequestID("")); return err },
		"cas with two expectation": func() error {
			_, _, err := h.CompareAndSwap(ctx, "k", kv.IfValue("v"), "w", kv.AtRevision(1))
			return err
		},
		"set with two expectation": func() error { _, err := h.Set(ctx, "k", "", kv.AtRevision(1), kv.AtRevision(2)); return err },
	} {
		if err := call(); !errors.Is(err, kv.ErrInvalidArgument) || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
		if s.cmd != (kv.Command{}) {
			t.Errorf("%s: the store was given %+v", says, s.cmd)
		}
	}
}

// An iteration that was broken off has no part in the next one.
func TestHandleEntriesAgain(t *testing.T) {
	ctx, h := t.Context(), newHandle(t)
	for i := range 5 {
		if _, err := h.Set(ctx, fmt.Sprint("k", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	entries := h.Entries(ctx, kv.Query{Limit: 2})
	for _, want := range []string{"k0 k1 k2", "k0 k1 k2 k3 k4"} {
		var got []string
		for entry, err := range entries {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, entry.Key); strings.Join(got, " ") == want {
				break
			}
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("the entries begin with %s, want %s", got, want)
		}
	}
}

func TestHandleReads(t *testing.T) {
	ctx, h := t.Context(), newHandle(t)
	if _, err := h.Set(ctx, "text", "größe", kv.WithTTL(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Set(ctx, "bytes", "\xff"); err != nil {
		t.Fatal(err)
	}
	if text, err := h.GetText(ctx, "text"); err != nil || text != "größe" {
		t.Errorf("text: %q, %v", text, err)
	}
	if text, err := h.GetText(ctx, "bytes"); !errors.Is(err, kv.ErrNotText) || text != "" {
		t.Errorf("text of invalid UTF-8: %q, %v", text, err)
	}
	if _, err := h.GetText(ctx, "absent"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("text of an absent key: %v", err)
	}
	for key, want := range map[string]bool{"text": true, "absent": false} {
		if got, err := h.Exists(ctx, key); err != nil || got != want {
			t.Errorf("exists %q: %v, %v", key, got, err)
		}
	}
	if got, err := h.Exists(ctx, "*"); !errors.Is(err, kv.ErrInvalidKey) || got {
		t.Errorf("exists of an invalid key: %v, %v", got, err)
	}
	if left, never, err := h.TTL(ctx, "text"); err != nil || never || left <= 0 || left > time.Hour {
		t.Errorf("time left of text: %v, %v, %v", left, never, err)
	}
	if left, never, err := h.TTL(ctx, "bytes"); err != nil || !never || left != 0 {
		t.Errorf("time left of bytes: %v, %v, %v", left, never, err)
	}
	if left, never, err := h.TTL(ctx, "absent"); !errors.Is(err, kv.ErrNotFound) || never || left != 0 {
		t.Errorf("time left of an absent key: %v, %v, %v", left, never, err)
	}
	if keys, err := h.Keys(ctx, ""); err != nil || !slices.Equal(keys, []string{"bytes", "text"}) {
		t.Errorf("keys: %q, %v", keys, err)
	}
	if keys, err := kv.Of(&narrow{Store: h.Store()}).Keys(ctx, ""); err != nil || len(keys) != 2 {
		t.Errorf("keys where no value has room: %q, %v", keys, err)
	}
	if n, err := h.Len(ctx); err != nil || n != 2 {
		t.Errorf("len: %d, %v", n, err)
	}
	if limits, err := h.Limits(ctx); err != nil || limits != kv.DefaultLimits() {
		t.Errorf("limits: %+v, %v", limits, err)
	}
}

func TestHandleEntries(t *testing.T) {
	ctx, h := t.Context(), newHandle(t)
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("key%02d", i)
		want = append(want, key)
		if _, err := h.Set(ctx, key, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{0, 1, 5, 7, 100} {
		var got []string
		for entry, err := range h.Entries(ctx, kv.Query{Limit: limit}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, entry.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("entries by pages of %d: %q", limit, got)
		}
	}
	for entry := range h.Entries(ctx, kv.Query{Limit: 2}) {
		if entry.Key == "key02" {
			break
		}
	}
	errs := 0
	for _, err := range h.Entries(ctx, kv.Query{Prefix: "*"}) {
		if errs++; !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("entries under an invalid prefix: %v", err)
		}
	}
	if errs != 1 {
		t.Errorf("%d errors, want 1", errs)
	}
}

// A narrow store has no room for a page with more bytes of values than that.
type narrow struct {
	kv.Store
	room  int
	scans int
}

func (s *narrow) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	s.scans++
	page, err := s.Store.Scan(ctx, q)
	size := 0
	for _, entry := range page.Entries {
		size += len(entry.Value)
	}
	if size > s.room {
		return kv.Page{}, fmt.Errorf("%w: a page of %d bytes", kv.ErrValueTooLarge, size)
	}
	return page, err
}

func TestHandleEntriesThatMakeLargePages(t *testing.T) {
	ctx, h := t.Context(), newHandle(t)
	var want []string
	for i := range 300 {
		key, value := fmt.Sprintf("key%03d", i), "v"
		if i >= 100 {
			value = strings.Repeat("v", 100)
		}
		want = append(want, key)
		if _, err := h.Set(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		room, limit, scans, entries int
	}{
		{room: 1 << 20, scans: 1, entries: 300},
		{room: 5000, scans: 12, entries: 300},            // 1000, 500 and 250 are too many, then 125 and 62
		{room: 5000, limit: 100, scans: 6, entries: 300}, // the second 100 are
		{room: 100, limit: 7, scans: 14 + 2 + 202, entries: 300},
		{room: 99, limit: 7, scans: 14 + 2 + 2 + 1, entries: 100}, // the next one alone is too large
	} {
		store := &narrow{Store: h.Store(), room: tt.room}
		var got []string
		var failed error
		for entry, err := range kv.Of(store).Entries(ctx, kv.Query{Limit: tt.limit}) {
			if failed = err; err == nil {
				got = append(got, entry.Key)
			}
		}
		if !slices.Equal(got, want[:tt.entries]) || store.scans != tt.scans {
			t.Errorf("%+v: %d entries in %d scans: %q", tt, len(got), store.scans, got)
		}
		if all := tt.entries == len(want); all && failed != nil || !all && !errors.Is(failed, kv.ErrValueTooLarge) {
			t.Errorf("%+v: error %v", tt, failed)
		}
	}
}

// TestGlobal is the only test that publishes a store: that is once in the life
// of a process.
func TestGlobal(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)

	first, second := newHandle(t).Store(), newHandle(t).Store()
	_, published := kv.Global()
	if got := kv.SetGlobal(first); got == published { // with -count, it is published by the first run
		t.Errorf("first publication: %v, want %v", got, !published)
	}
	log.Reset()
	global, ok := kv.Global()
	if !ok || !published && global.Store() != first {
		t.Errorf("global: %v, %v", global, ok)
	}
	if kv.SetGlobal(second) {
		t.Error("a second publication succeeded")
	}
	if again, _ := kv.Global(); again != global {
		t.Error("a second publication replaced the first one")
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1: %s", n, log.String())
	}
}

func ExampleHandle() {
	store := kvtest.NewModelStore(kvtest.Options{Limits: kv.DefaultLimits()})
	defer store.Close()
	ctx := context.Background()

	h := kv.Of(store)
	revision, _ := h.Set(ctx, "color", "blue")
	swapped, revision, _ := h.CompareAndSwap(ctx, "color", kv.IfRevision(revision), "green")
	fmt.Println(swapped, revision)
	color, _ := h.GetText(ctx, "color")
	fmt.Println(color)
	// Output:
	// true 2
	// green
}
