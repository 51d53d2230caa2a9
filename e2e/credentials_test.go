package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// A worker that may not connect says so at once and does not try again.

func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	s := startServer(t, `authorization { users: [ {user: worker, password: "right-1"} ] }`)

	for name, args := range map[string][]string{
		"a wrong password": {"--user", "worker", "--password", "wrong-1"},
		"no user":          nil,
	} {
		w := startWorker(t, nil, append([]string{"--nats-url", s.url}, args...)...)
		w.expectExit(t, 1)
		text := w.stderr.String()
		if !strings.Contains(text, "Authorization Violation") || !strings.Contains(text, s.address) || strings.Contains(text, "wrong-1") {
			t.Errorf("%s: stderr is:\n%s", name, text)
		}
	}

	w := startWorker(t, []string{"KVBUS_NATS__PASSWORD=right-1"}, "--nats-url", s.url, "--user", "worker")
	w.awaitLog(t, "serving")
	client := connect(t, s.url, nats.UserInfo("worker", "right-1"))
	if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
		t.Errorf("set answers %q; want 1", got)
	}
	w.terminate(t)
	if strings.Contains(w.stderr.String(), "right-1") {
		t.Error("the password is in the log")
	}

	// A password in the URL is one too.
	inURL := "nats://worker:right-1@" + s.address
	w = serveOn(t, inURL)
	w.terminate(t)
	if strings.Contains(w.stderr.String(), "right-1") {
		t.Error("the URL's password is in the log")
	}
}

// A server that comes back and does not know the worker for a while, as before it
// has heard of its accounts, gets it back later.
func TestUserIsUnknownForAWhile(t *testing.T) {
	t.Parallel()
	const known = `authorization { users: [ {user: worker, password: "right-1"}, {user: other, password: "right-2"} ] }`
	s := startServer(t, known)
	w := startWorker(t, []string{"KVBUS_NATS__PASSWORD=right-1"}, "--nats-url", s.url, "--user", "worker")
	w.awaitLog(t, "serving")
	config, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(config string) {
		t.Helper()
		s.kill()
		if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		s.start(t)
	}

	restart(strings.Replace(string(config), "worker", "nobody", 1))
	// Both connections are refused more often than nats.go bears by itself.
	if !s.stderr.await(s.ended, func(text string) bool { return strings.Count(text, "authentication error") >= 8 }) {
		t.Fatalf("the worker does not come back again and again:\n%s", s.stderr.String())
	}
	restart(string(config))
	w.awaitLog(t, "reconnected to NATS")
	client := connect(t, s.url, nats.UserInfo("other", "right-2"))
	if got := persist(t, client, "kv.set.color", "blue"); got != "1" {
		t.Errorf("set answers %q; want 1", got)
	}
	w.terminate(t)
}

func TestNKey(t *testing.T) {
	t.Parallel()
	public, seedFile := newNKey(t)
	_, otherSeedFile := newNKey(t)
	s := startServer(t, fmt.Sprintf("authorization { users: [ {nkey: %s} ] }", public))

	refused := startWorker(t, nil, "--nats-url", s.url, "--nkey", otherSeedFile)
	refused.expectExit(t, 1)
	expectParts(t, refused.stderr.String(), "Authorization Violation")

	w := serveOn(t, s.url, "--nkey", seedFile)
	client := connect(t, s.url, mustNKey(t, seedFile))
	if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
		t.Errorf("set answers %q; want 1", got)
	}
	w.terminate(t)
}

func newNKey(t *testing.T) (public, seedFile string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err = pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return public, writeFile(t, "user.nk", string(seed))
}

func mustNKey(t *testing.T, seedFile string) nats.Option {
	t.Helper()
	option, err := nats.NkeyOptionFromSeed(seedFile)
	if err != nil {
		t.Fatal(err)
	}
	return option
}

// A context of the nats command serves kvbus as well.
func TestNATSContext(t *testing.T) {
	t.Parallel()
	s := startServer(t, `authorization { users: [ {user: worker, password: "right-2"} ] }`)
	home := t.TempDir()
	text := fmt.Sprintf(`{"description": "a test's", "url": %q, "user": "worker", "password": "right-2"}`, s.url)
	path := filepath.Join(home, "nats", "context", "mine.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"XDG_CONFIG_HOME=" + home}

	for _, context := range []string{"mine", path} {
		w := startWorker(t, environ, "--nats-context", context)
		w.awaitLog(t, "serving")
		client := connect(t, s.url, nats.UserInfo("worker", "right-2"))
		if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
			t.Errorf("set answers %q; want 1", got)
		}
		w.terminate(t)
	}

	unknown := startWorker(t, environ, "--nats-context", "other")
	unknown.expectExit(t, 1)
	expectParts(t, unknown.stderr.String(), "kvbus: ", `"other"`)
}
