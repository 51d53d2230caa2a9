package kvtest

import (
	"strings"

	"kvbus/kv"
)

func valueChecks() []check {
	return []check{
		{"bytes come back as they went in", checkValueBytes},
		{"an empty value is a value", checkEmptyValue},
		{"text", checkText},
		{"answers are the caller's own", checkAnswersOwned},
	}
}

func allBytes() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}

func checkValueBytes(e *env) {
	s := e.open()
	w := s.watch(kv.WatchOptions{})
	for _, value := range []string{
		"text", "größe 名前 😀", " ", "\r\n", "a\r\n\r\nb", "\x00", "\xff\xfe", allBytes(),
		"NATS/1.0\r\nKV-End: true\r\n\r\n", "true", "+OK", strings.Repeat(allBytes(), 256),
	} {
		revision := s.set("key", value)
		s.holds("key", value)
		e.equal("value by scan", s.scan(kv.Query{}).Entries[0].Value, value)
		e.equal("value by replay", s.event(revision).Value, value)
		e.equal("value by watch", w.next().Value, value)
		result := s.do(kv.Command{Op: kv.OpCompareAndSwap, Key: "key", Expect: kv.IfValue(value), Value: "swapped"})
		e.equal("swap on the exact value", result.Applied, true)
		w.next()
	}
}

func checkEmptyValue(e *env) {
	s := e.open()
	revision := s.set("key", "")
	s.holds("key", "")
	e.same(s.event(revision), kv.Event{Kind: kv.EventSet, Key: "key", Revision: revision})
	exists, err := s.Exists(s.ctx, "key")
	if err != nil || !exists {
		e.Errorf("exists: %v, %v; want true", exists, err)
	}
	e.equal("keys held", s.info().Keys, int64(1))
	page := s.scan(kv.Query{})
	if len(page.Entries) != 1 || page.Entries[0].Key != "key" {
		e.Errorf("scan: %+v; want the key", page.Entries)
	}
}

func checkText(e *env) {
	s := e.open()
	s.set("text", "größe")
	s.set("bytes", "gr\xf6\xdfe")
	text, err := s.GetText(s.ctx, "text")
	if err != nil || text != "größe" {
		e.Errorf("text of valid UTF-8: %q, %v", text, err)
	}
	_, err = s.GetText(s.ctx, "bytes")
	s.wantErr("text of invalid UTF-8", err, kv.ErrNotText)
	_, err = s.GetText(s.ctx, "absent")
	s.wantErr("text of an absent key", err, kv.ErrNotFound)
}

// checkAnswersOwned changes what a store returned; the next answer must not
// show it.
func checkAnswersOwned(e *env) {
	s := e.open()
	s.set("a", "1")
	s.set("b", "2")
	clear(s.scan(kv.Query{}).Entries)
	clear(s.replay(kv.ReplayQuery{}).Events)
	entries := s.scan(kv.Query{}).Entries
	if len(entries) != 2 || entries[0].Value != "1" || entries[1].Value != "2" {
		e.Errorf("scan after an earlier answer was changed: %+v", entries)
	}
	events := s.replay(kv.ReplayQuery{}).Events
	if len(events) != 2 || events[0].Value != "1" || events[1].Value != "2" {
		e.Errorf("replay after an earlier answer was changed: %+v", events)
	}
}
