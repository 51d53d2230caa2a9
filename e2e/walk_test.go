package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestProtocolDocument(t *testing.T) {
	t.Parallel()
	walk(t, filepath.Join("bus", "PROTOCOL.md"))
}

// walk runs the console blocks of a document, as one session on an empty
// store, and compares.
func walk(t *testing.T, path string) {
	document := readDocument(t, path)
	steps, err := parseSession(document)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if len(steps) == 0 {
		t.Fatalf("%s has no console blocks", path)
	}
	w, monitor := serveMonitored(t)
	var background []func()
	for _, s := range steps {
		cmd := exec.Command("sh", "-c", s.command)
		cmd.Dir = t.TempDir()
		cmd.Env = append(environment(), "NATS_URL="+w.url, "KVBUS_NATS__URL="+w.url)
		// What the shell starts is ended with it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		text := new(output)
		cmd.Stdout, cmd.Stderr = text, text

		before := subscribers(t, monitor)
		p := run(t, cmd)
		complain := func() {
			if line, found := missing(s.want, text.String()); found {
				t.Errorf("%s:%d: $ %s\nprints no %q in this place:\n%s", path, s.line, s.command, line, text.String())
			}
		}
		if s.background {
			awaitSubscriber(t, monitor, before, p.ended)
			background = append(background, func() {
				text.await(p.ended, func(text string) bool {
					_, found := missing(s.want, text)
					return !found
				})
				complain()
			})
			continue
		}
		status := p.wait(t)
		complain()
		if status != 0 && len(s.want) == 0 {
			t.Errorf("%s:%d: $ %s\nexit status %d, of which nothing is said:\n%s", path, s.line, s.command, status, text.String())
		}
	}
	for _, check := range background {
		check()
	}
}

// script returns the sh block of a document that has a part.
func script(t *testing.T, path, part string) string {
	t.Helper()
	for _, b := range parseBlocks(readDocument(t, path)) {
		if text := strings.Join(b.lines, "\n") + "\n"; b.language == "sh" && strings.Contains(text, part) {
			return text
		}
	}
	t.Fatalf("%s has no sh block with %q", path, part)
	return ""
}

func readDocument(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(moduleRoot, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
