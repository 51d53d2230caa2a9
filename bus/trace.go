package bus

import (
	"slices"
	"strings"

	"kvbus/kv"
)

// The bounds that W3C Trace Context sets on a tracestate.
const (
	maxTraceState        = 512
	maxTraceStateMembers = 32
)

// trace returns the trace context of a request. As W3C asks, one that is
// malformed is as none, and a state that is malformed leaves the parent.
func (hs *headers) trace() kv.Trace {
	parent, _ := hs.token(idTraceParent)
	if hs.twice.has(idTraceParent) || !validTraceParent(parent) {
		return kv.Trace{}
	}
	// The clones let go of the rest of the header block: a trace lives as long
	// as the event that carries it.
	trace := kv.Trace{Parent: strings.Clone(parent)}
	if state, ok := hs.token(idTraceState); ok && !hs.twice.has(idTraceState) && validTraceState(state) {
		trace.State = strings.Clone(state)
	}
	return trace
}

// validTraceParent checks version-traceid-parentid-flags, all in lower-case hex
// and neither id all zeros. A version after 00 may be followed by more.
func validTraceParent(s string) bool {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(s) < length || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:55]
	if !isHex(version) || !isHex(trace) || !isHex(parent) || !isHex(flags) || version == "ff" {
		return false
	}
	if strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return false
	}
	if len(s) == length {
		return true
	}
	return version != "00" && s[length] == '-' && len(s) <= maxTraceState && isPrintable(s)
}

// validTraceState checks a list of key=value, each key there once. Members may be
// empty.
func validTraceState(s string) bool {
	if s == "" || len(s) > maxTraceState || !isPrintable(s) {
		return false
	}
	var keys [maxTraceStateMembers]string
	members := 0
	for member := range strings.SplitSeq(s, ",") {
		member = strings.Trim(member, " ")
		if member == "" {
			continue
		}
		key, value, _ := strings.Cut(member, "=")
		if key == "" || value == "" || strings.Contains(value, "=") || strings.ContainsFunc(key, notTraceKey) {
			return false
		}
		if members == len(keys) || slices.Contains(keys[:members], key) {
			return false
		}
		keys[members] = key
		members++
	}
	return true
}

func notTraceKey(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("_-*/@", r)
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isPrintable reports whether s is printable ASCII, spaces too.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
