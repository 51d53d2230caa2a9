package e2e

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseSession(t *testing.T) {
	t.Parallel()
	document := strings.ReplaceAll(`# Title
'''sh
$ not this
'''
'''console
# a comment
$ nats sub 'kv.events.>' &
[#1] Received
$ one
first
...
 second

'''
- in a list:
  '''console
  $ two \
    lines
  '''
`, "'''", "```")
	got, err := parseSession(document)
	want := []step{
		{line: 7, command: "nats sub 'kv.events.>'", background: true, want: []string{"[#1] Received"}},
		{line: 9, command: "one", want: []string{"first", "second"}},
		{line: 17, command: "two   lines"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parsed %+v, %v; want %+v", got, err, want)
	}
	if _, err := parseSession("```console\noutput\n```\n"); err == nil {
		t.Error("output without a command is no error")
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	reply := "07:37:28 Received with rtt 12ms\n07:37:28 KV-Key: a\n07:37:28 KV-Revision: 10\n07:37:28 \nred 1\n\n" +
		"07:37:29 KV-Revision: 11\n07:37:29 KV-End: true\n07:37:29 \nnil body\n"
	for _, test := range []struct {
		want    []string
		missing string
	}{
		{nil, ""},
		{[]string{"KV-Revision: 10", "KV-Key: a", "red", "KV-End:"}, ""},
		{[]string{"KV-Key: a", "KV-Revision: 11"}, ""},
		{[]string{"red", "1", "nil body"}, ""},
		{[]string{"KV-Revision: 1"}, "KV-Revision: 1"},
		{[]string{"0"}, "0"},
		{[]string{"a"}, "a"},
		{[]string{"red", "KV-Key: a"}, "KV-Key: a"},
		{[]string{"KV-Key: a", "KV-Key: a"}, "KV-Key: a"},
		{[]string{"37"}, "37"},
		{[]string{"true"}, "true"},
	} {
		if line, found := missing(test.want, reply); line != test.missing || found != (test.missing != "") {
			t.Errorf("%q: missing %q, %v; want %q", test.want, line, found, test.missing)
		}
	}
}
