package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A terminal uses the nats command on the server at a url.
type terminal struct {
	t   *testing.T
	url string
}

// nats runs the nats command, which must succeed, and returns all that it
// prints.
func (c terminal) nats(args ...string) string {
	c.t.Helper()
	p, all := c.start(args...)
	if status := p.wait(c.t); status != 0 {
		c.t.Fatalf("nats %q: exit status %d\n%s", args, status, all.String())
	}
	return all.String()
}

// start starts the nats command. Both its outputs go to the one that is
// returned, in the order in which they were written.
func (c terminal) start(args ...string) (*process, *output) {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "nats"), args...)
	cmd.Env = append(environment(), "NATS_URL="+c.url)
	all := new(output)
	cmd.Stdout, cmd.Stderr = all, all
	return run(c.t, cmd), all
}

// request sends a request and returns the body of the reply, less the line feeds
// that the command adds.
func (c terminal) request(subject, body string, headers ...string) string {
	c.t.Helper()
	return strings.TrimRight(c.nats(requestArgs(subject, body, headers, "--raw")...), "\n")
}

// full sends a request and returns all that nats prints: headers and body.
func (c terminal) full(subject, body string, headers ...string) string {
	c.t.Helper()
	return c.nats(requestArgs(subject, body, headers)...)
}

func requestArgs(subject, body string, headers []string, flags ...string) []string {
	args := append([]string{"request"}, flags...)
	for _, header := range headers {
		args = append(args, "--header", header)
	}
	return append(args, "--", subject, body)
}

var clock = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d `)

// untimed takes the time of day off the lines that the nats command prints.
func untimed(text string) string { return clock.ReplaceAllString(text, "") }
