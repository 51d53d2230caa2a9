package bus

import (
	"testing"

	"kvbus/kv"
)

func TestSelectionSubject(t *testing.T) {
	for _, c := range []struct{ prefix, filter, want string }{
		{"", "", "team.kv.events.>"},
		{"", "user.*.name", "team.kv.events.user.*.name"},
		{"us", "", "team.kv.events.>"},
		{"user", "", "team.kv.events.>"},
		{"user.", "", "team.kv.events.user.>"},
		{"user.4", "", "team.kv.events.user.>"},
		{"user.4.", "", "team.kv.events.user.4.>"},
		{".", "", "team.kv.events.=.>"},
		{"a..b", "", "team.kv.events.a.=.>"},
		{"user.", "*.name", "team.kv.events.user.name"},
		{"user.4.", "*.>", "team.kv.events.user.4.>"},
		{"user.4.x", "user.>", "team.kv.events.user.4.>"},
		{"user.4.", "*.*.name", "team.kv.events.user.4.name"},
		{"user.4.5.", "*.name", "team.kv.events.*.name"},
	} {
		filter, err := kv.ParseFilter(c.filter)
		if err != nil {
			t.Fatal(err)
		}
		if got := testSubjects(t).selectionSubject(c.prefix, filter); got != c.want {
			t.Errorf("prefix %q, filter %q: %s, want %s", c.prefix, c.filter, got, c.want)
		}
	}
}

func TestHeartbeatRoundTrip(t *testing.T) {
	s := testSubjects(t)
	for _, want := range []Heartbeat{{}, {Revision: 1<<64 - 1}, {Revision: 7, Epoch: "X1"}} {
		m := s.EncodeHeartbeat(want)
		if m.Subject != "team.kv.revision" {
			t.Errorf("a heartbeat goes to %s", m.Subject)
		}
		if got, err := DecodeHeartbeat(m); err != nil || got != want {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	}
}
