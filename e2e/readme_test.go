package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestReadme(t *testing.T) {
	t.Parallel()
	walk(t, "README.md")
}

// byHand is how the README says to start a worker from the sources.
const byHand = "go run ./cmd/kvbus serve"

func TestReadmeServes(t *testing.T) {
	t.Parallel()
	script(t, "README.md", byHand)
	args := strings.Fields(byHand)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = moduleRoot
	cmd.Env = append(environment(), "KVBUS_NATS__LISTEN=127.0.0.1:0")
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

// The users that cmd/OPERATING.md gives as an example may do what it says.
func TestAccessControl(t *testing.T) {
	t.Parallel()
	const begin, end = "cat > nats-server.conf <<'EOF'\n", "\nEOF\n"
	_, config, _ := strings.Cut(script(t, "cmd/OPERATING.md", begin), begin)
	config, _, found := strings.Cut(config, end)
	if !found {
		t.Fatal("OPERATING.md has no end of nats-server.conf")
	}
	for name, args := range map[string][]string{"memory": nil, "durable": {"--data-dir", t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append(args, "--listen", "127.0.0.1:0", "--nats-config", writeFile(t, "nats-server.conf", config), "--user", "worker")
			w := startWorker(t, []string{"KVBUS_NATS__PASSWORD=w-secret", "KVBUS_STORE__SNAPSHOT_MAX_AGE=1s"}, args...)
			accessControl(t, terminal{t, w.awaitLog(t, "serving").text("listen")})
			if name == "durable" {
				w.awaitLog(t, "snapshot stored")
			}
			if lines := w.logged("NATS reports an error"); len(lines) > 0 {
				t.Errorf("the worker may not do what it does: %v", lines)
			}
		})
	}
}

// Who is no worker by the users of the server says so, and does not serve.
func TestWorkerWithoutRights(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "nats-server.conf", `authorization { users: [
		{user: app, password: "a-secret", permissions: {publish: "kv.*.app.>", subscribe: "_INBOX.>"}}
	] }`)
	w := startWorker(t, []string{"KVBUS_NATS__PASSWORD=a-secret"}, "--listen", "127.0.0.1:0", "--nats-config", file, "--user", "app")
	w.expectExit(t, 1)
	expectParts(t, w.stderr.String(), "the user of this worker lacks a right that it needs", "Permissions Violation")
}

func accessControl(t *testing.T, c terminal) {
	as := func(user, password, subject, body string, flags ...string) string {
		args := append([]string{"request", "--user", user, "--password", password, "--inbox-prefix", "_INBOX." + user}, flags...)
		return c.nats(append(args, subject, body)...)
	}
	app := func(subject, body string, flags ...string) string {
		return as("app", "a-secret", subject, body, flags...)
	}
	viewer := func(subject, body string, flags ...string) string {
		return as("viewer", "v-secret", subject, body, flags...)
	}
	const soon = "--timeout=1s" // nobody answers

	expectParts(t, app("kv.set.app.color", "blue"), "KV-Revision: 1")
	expectParts(t, app("kv.get.app.color", ""), "blue")
	expectParts(t, viewer("kv.get.app.color", ""), "blue")
	expectParts(t, viewer("kv.exists.app.color", ""), "true")
	expectParts(t, viewer("kv.keys", ""), "app.color")
	startWatch(t, c.url, "--user", "viewer", "--password", "v-secret", "--inbox-prefix", "_INBOX.viewer", "--state").
		await(t, "STATE app.color=blue", "READY")
	startWatch(t, c.url, "--user", "app", "--password", "a-secret", "--inbox-prefix", "_INBOX.app", "--state", "app.>").
		await(t, "STATE app.color=blue", "READY")
	expectParts(t, viewer("kv.info", ""), `"revision":1`)
	expectParts(t, app("kv.info", ""), `"revision":1`) // which a watch asks at its first heartbeat
	for name, answer := range map[string]string{
		"app sets a key of another": app("kv.set.other.color", "red", soon),
		"app forges an event":       app("kv.events.app.color", "red", soon),
		"viewer sets":               viewer("kv.set.app.color", "red", soon),
		"viewer clears":             viewer("kv.clear", "", soon),
		"app has another key set by an answer": c.nats("publish", "--user", "app", "--password", "a-secret",
			"--reply", "kv.set.other.color", "kv.get.app.color", ""),
		"viewer has the store cleared by an answer": c.nats("publish", "--user", "viewer", "--password", "v-secret",
			"--reply", "kv.clear", "kv.get.app.color", ""),
	} {
		if strings.Contains(answer, "Received") {
			t.Errorf("%s:\n%s", name, answer)
		}
	}
	// What an answer would have set comes before this.
	expectParts(t, app("kv.get.app.color", ""), "blue")
	expectParts(t, app("kv.set.app.color", "green"), "KV-Revision: 2")
	expectParts(t, viewer("kv.info", ""), `"revision":2`, `"keys":1`)
}
