package bus

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

const testParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestTraceParent(t *testing.T) {
	for _, s := range []string{testParent, "cc" + testParent[2:], "cc" + testParent[2:] + "-more"} {
		if !validTraceParent(s) {
			t.Errorf("%q is valid", s)
		}
	}
	for _, s := range []string{
		"", "00", testParent[:54], testParent + "-more", testParent + "x", "ff" + testParent[2:], "cc" + testParent[2:] + "x",
		strings.ToUpper(testParent), strings.Replace(testParent, "-", "_", 1),
		"0g" + testParent[2:], testParent[:3] + "g" + testParent[4:], testParent[:36] + "g" + testParent[37:], testParent[:54] + "g",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		"cc" + testParent[2:] + "-\r\n",
	} {
		if validTraceParent(s) {
			t.Errorf("%q is invalid", s)
		}
	}
}

// members returns a state with n of them.
func members(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("k%d=1", i))
	}
	return strings.Join(list, ",")
}

func TestTraceState(t *testing.T) {
	for _, s := range []string{"a=1", "a= ~", "vendor@x=t61 rcWkgMzE,rojo=00f067aa0ba902b7", "a=1,,b=2", members(maxTraceStateMembers), "a=" + strings.Repeat("x", maxTraceState-2)} {
		if !validTraceState(s) {
			t.Errorf("%q is valid", s)
		}
	}
	for _, s := range []string{"", "a", "=1", "a=", "A=1", "a=1=2", "a=\n", "a=ä", "a=1,b=2,a=3", members(maxTraceStateMembers + 1), "a=" + strings.Repeat("x", maxTraceState-1)} {
		if validTraceState(s) {
			t.Errorf("%q is invalid", s)
		}
	}
}

func TestTraceNeverFailsARequest(t *testing.T) {
	s := testSubjects(t)
	for name, tt := range map[string]struct {
		header        nats.Header
		parent, state string
	}{
		"both":             {nats.Header{"traceparent": {testParent}, "tracestate": {"a=1"}}, testParent, "a=1"},
		"other case":       {nats.Header{"Traceparent": {testParent}, "TraceState": {"a=1"}}, testParent, "a=1"},
		"bad parent":       {nats.Header{"traceparent": {"x"}, "tracestate": {"a=1"}}, "", ""},
		"bad state":        {nats.Header{"traceparent": {testParent}, "tracestate": {"?"}}, testParent, ""},
		"state alone":      {nats.Header{"tracestate": {"a=1"}}, "", ""},
		"parent twice":     {nats.Header{"traceparent": {testParent, testParent}}, "", ""},
		"parent two cases": {nats.Header{"traceparent": {testParent}, "Traceparent": {testParent}}, "", ""},
		"state twice":      {nats.Header{"traceparent": {testParent}, "tracestate": {"a=1", "b=2"}}, testParent, ""},
	} {
		for _, op := range Ops() {
			if !op.Writes() {
				continue
			}
			cmd, err := s.DecodeCommand(op, "team.kv."+op.String()+".k", tt.header, []byte("1"))
			if err != nil {
				t.Errorf("%s, %v: %v", name, op, err)
				continue
			}
			if want := (kv.Trace{Parent: tt.parent, State: tt.state}); cmd.Trace != want {
				t.Errorf("%s, %v: %+v, want %+v", name, op, cmd.Trace, want)
			}
		}
	}
}
