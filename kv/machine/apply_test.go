package machine

import (
	"errors"
	"testing"
	"time"

	"kvbus/kv"
)

// Whether a key in a log is valid was decided when it was put there.
func TestLoggedKeyIsNotJudged(t *testing.T) {
	m := New(Options{})
	cmd := &kv.Command{Op: kv.OpSet, Key: "a letter of a later Unicode", Value: "v"}
	if _, err := m.Apply(1, cmd); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("a command that comes with an invalid key: %v", err)
	}
	if _, err := m.ApplyLogged(1, cmd); err != nil {
		t.Errorf("one that was logged with it: %v", err)
	}
	var entry kv.Entry
	if err := Share(m).Get(cmd.Key, time.Now, &entry); err != nil || entry.Value != "v" {
		t.Errorf("the entry is %+v, %v", entry, err)
	}
	apply(t, m, kv.Command{Op: kv.OpSet, Key: "b"})
	view := m.View()
	defer view.Close()
	page, err := view.Scan(kv.Query{Limit: 1}, time.Unix(0, 1))
	if err == nil {
		page, err = view.Scan(kv.Query{Cursor: page.Cursor}, time.Unix(0, 1))
	}
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Key != "b" {
		t.Errorf("the page after it is %+v, %v", page, err)
	}
	cmd.TTL = -1
	if _, err := m.ApplyLogged(1, cmd); !errors.Is(err, kv.ErrInvalidArgument) {
		t.Errorf("one that was logged with a negative life: %v", err)
	}
}
