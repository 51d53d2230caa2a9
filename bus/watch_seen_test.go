package bus

import (
	"testing"
	"time"

	"kvbus/kv"
)

// A watch does not hurry to an audit for events that the last one has covered, though
// it remembers them.
func TestAuditOfManyEvents(t *testing.T) {
	now := time.Now()
	f := &follower{subscribed: now, settled: true, nextAudit: now.Add(time.Hour), busyAudit: now.Add(time.Minute)}
	for range maxSeen {
		f.newest++
		f.seen.add(f.newest, 0)
	}
	for _, c := range []struct {
		what    string
		audited uint64
		want    time.Time
	}{
		{"none", 0, f.busyAudit},
		{"half of them", maxSeen / 2, f.busyAudit},
		{"more than half of them", maxSeen/2 + 1, f.nextAudit},
		{"all but one", maxSeen - 1, f.nextAudit},
	} {
		f.audited = c.audited
		if due := f.auditDue(); !due.Equal(c.want) {
			t.Errorf("%s of %d events audited: the next audit is due in %v, want %v", c.what, maxSeen, due.Sub(now), c.want.Sub(now))
		}
	}
	f.forgotten = 1
	f.startAfter(5)
	if f.forgotten != 0 {
		t.Error("a watch that starts anew tells of events before that")
	}
}

// Events that the last audit has covered make room for others first.
func TestSeenForgetsWhatIsCovered(t *testing.T) {
	now := time.Now()
	f := &follower{subscribed: now, settled: true, nextAudit: now.Add(time.Hour), busyAudit: now}
	f.yield = func(Change, error) bool { return true }
	f.startAfter(0)
	give := func(n int) {
		t.Helper()
		for range n {
			if err := f.giveEvent(&kv.Event{Kind: kv.EventSet, Key: "a", Revision: f.given + 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	give(maxSeen/2 - 100)
	f.audited = f.reached
	give(maxSeen)
	if f.forgotten > 0 {
		t.Errorf("%d are forgotten with %d since the audit", f.forgotten, maxSeen)
	}
	give(1)
	if want := f.audited; f.forgotten == 0 || f.forgotten != want {
		t.Errorf("with one more those up to %d are forgotten; want %d", f.forgotten, want)
	}
}
