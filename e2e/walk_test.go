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

func TestReadme(t *testing.T) {
	t.Parallel()
	walk(t, "README.md")
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
		cmd.Env = append(environment(), "NATS_URL="+w.url)
		// What the shell starts is ended with it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		text := new(output)
		cmd.Stdout, cmd.Stderr = text, text

		before := connections(t, monitor)
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

// byHand is how the README says to start a worker from the sources.
const byHand = "go run ./cmd/kvbus serve"

func TestReadmeServes(t *testing.T) {
	t.Parallel()
	script(t, "README.md", byHand)
	args := strings.Fields(byHand)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = moduleRoot
	cmd.Env = append(os.Environ(), "KVBUS_NATS__LISTEN=127.0.0.1:0")
	// go run starts kvbus as a process of its own, which its end does not end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w := &worker{process: run(t, cmd)}

	w.url = w.awaitLog(t, "serving").text("listen")
	c := terminal{t, w.url}
	c.request("kv.set.color", "blue")
	if got := c.request("kv.get.color", ""); got != "blue" {
		t.Errorf("the value is %q; want blue", got)
	}
	// As from a terminal, the signal goes to both.
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	w.awaitLog(t, "stopped")
	w.wait(t) // go run's exit status is its own after a signal
}

// The users that the README gives as an example may do what it says.
func TestReadmeAccessControl(t *testing.T) {
	t.Parallel()
	const begin, end = "cat > nats-server.conf <<'EOF'\n", "\nEOF\n"
	_, config, _ := strings.Cut(script(t, "README.md", begin), begin)
	config, _, found := strings.Cut(config, end)
	if !found {
		t.Fatal("README.md has no end of nats-server.conf")
	}
	w := startWorker(t, []string{"KVBUS_NATS__PASSWORD=w-secret"},
		"--listen", "127.0.0.1:0", "--nats-config", writeFile(t, "nats-server.conf", config), "--user", "worker")
	c := terminal{t, w.awaitLog(t, "serving").text("listen")}
	as := func(user, password, subject, body string) string {
		return c.nats("request", "--timeout", "1s", "--user", user, "--password", password, "--inbox-prefix", "_INBOX."+user, subject, body)
	}
	app := func(subject, body string) string { return as("app", "a-secret", subject, body) }
	viewer := func(subject, body string) string { return as("viewer", "v-secret", subject, body) }

	expectParts(t, app("kv.set.app.color", "blue"), "KV-Revision: 1")
	expectParts(t, app("kv.get.app.color", ""), "blue")
	expectParts(t, viewer("kv.get.app.color", ""), "blue")
	expectParts(t, viewer("kv.keys", ""), "app.color")
	expectParts(t, viewer("kv.info", ""), `"revision":1`)
	for name, answer := range map[string]string{
		"app sets a key of another": app("kv.set.other.color", "red"),
		"app forges an event":       app("kv.events.app.color", "red"),
		"viewer sets":               viewer("kv.set.app.color", "red"),
		"viewer clears":             viewer("kv.clear", ""),
	} {
		if strings.Contains(answer, "Received") {
			t.Errorf("%s:\n%s", name, answer)
		}
	}
	expectParts(t, viewer("kv.info", ""), `"revision":1`)
}

func TestReadmeSettings(t *testing.T) {
	t.Parallel()
	reference := launch(t, nil, "kvbus", "config", "--reference")
	reference.expectExit(t, 0)
	table := reference.stdout.String()
	if !strings.Contains(readDocument(t, "README.md"), table) {
		t.Errorf("the table of settings in README.md is not what kvbus config --reference prints:\n%s", table)
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
