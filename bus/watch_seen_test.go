package bus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus/bustest"
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

// A heldStore has no event.
type heldStore struct{ watchStore }

func (heldStore) Replay(_ context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	return kv.Replay{Revision: q.After}, nil
}

// Events that were forgotten before an audit are told of once, by the next one.
func TestForgottenEventsAreToldOnce(t *testing.T) {
	f := &follower{watchService: watchService{store: heldStore{}, nc: bustest.Connect(t, bustest.StartServer(t, server.Options{}))}}
	var notices []Notice
	f.opts = FollowOptions{Notify: func(n Notice) { notices = append(notices, n) }}.withDefaults()
	f.startAfter(7)
	f.forgotten = 5
	for range 2 {
		if err := f.audit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(notices) != 1 || notices[0].Kind != NoticeUnaudited || !errors.Is(notices[0].Err, errBusy) {
			t.Errorf("the notices are %+v", notices)
		}
	}
}
