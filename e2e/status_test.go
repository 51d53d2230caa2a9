package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExitStatus(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) // after the subtests
	address := taken.Addr().String()
	badFile := writeFile(t, "kvbus.yaml", "store:\n  max_keys: many\n  color: blue\n")
	badServer := writeFile(t, "nats-server.conf", "no_such_option: 1\n")
	goodFile := writeFile(t, "kvbus.yaml", "store:\n  max_keys: 5\n")

	for name, test := range map[string]struct {
		environ []string
		args    []string
		status  int
		want    []string // on stderr
	}{
		"port in use":          {nil, []string{"serve", "--listen", address}, 1, []string{address}},
		"unknown flag":         {nil, []string{"serve", "--color", "blue"}, 2, []string{"--color", "Run 'kvbus serve --help'"}},
		"unknown command":      {nil, []string{"sing"}, 2, []string{`"sing"`}},
		"argument":             {nil, []string{"serve", "now"}, 2, []string{`"now"`}},
		"bad flag":             {nil, []string{"serve", "--max-keys", "many"}, 2, []string{"--max-keys", "many"}},
		"bad value":            {nil, []string{"serve", "--max-keys", "-1"}, 2, []string{"store.max_keys", "set by flag --max-keys"}},
		"flags that conflict":  {nil, []string{"serve", "--nats-url", "nats://a", "--listen", "127.0.0.1:1"}, 2, []string{"nats.listen", "nats.url"}},
		"bad variable":         {[]string{"KVBUS_STORE__MAX_KEYS=many"}, []string{"serve"}, 1, []string{"KVBUS_STORE__MAX_KEYS"}},
		"unknown variable":     {[]string{"KVBUS_STORE_MAX_KEYS=5"}, []string{"serve"}, 1, []string{"did you mean KVBUS_STORE__MAX_KEYS?"}},
		"bad file":             {nil, []string{"serve", "--config", badFile}, 1, []string{badFile, "store.color", "store.max_keys"}},
		"missing file":         {nil, []string{"serve", "--config", "missing.yaml"}, 1, []string{"missing.yaml"}},
		"bad server file":      {nil, []string{"serve", "--listen", "127.0.0.1:0", "--nats-config", badServer}, 1, []string{badServer, "no_such_option"}},
		"missing server file":  {nil, []string{"serve", "--nats-config", "missing.conf"}, 1, []string{"missing.conf"}},
		"missing credentials":  {nil, []string{"serve", "--nats-url", "nats://127.0.0.1:1", "--nkey", "missing.nk"}, 1, []string{"missing.nk"}},
		"check of a bad file":  {nil, []string{"config", "--check", "--config", badFile}, 1, []string{"store.color"}},
		"check of a good file": {nil, []string{"config", "--check", "--config", goodFile}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, test.environ, "kvbus", test.args...)
			p.expectExit(t, test.status)
			stderr := p.stderr.String()
			expectParts(t, stderr, test.want...)
			if test.status != 0 && (p.stdout.String() != "" || !strings.Contains(stderr, "kvbus: ")) {
				t.Errorf("stdout is %q, stderr %q; want an error on stderr alone", p.stdout.String(), stderr)
			}
			if strings.Contains(stderr, "serving") || strings.Contains(stderr, "panic") {
				t.Errorf("stderr is %q", stderr)
			}
		})
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want []string // on stdout
	}{
		"no command":   {nil, []string{"kvbus serve", "Commands:"}},
		"help":         {[]string{"help", "serve"}, []string{"--listen", "--nats-url", "drain-timeout"}},
		"help flag":    {[]string{"serve", "--help"}, []string{"--listen", "--nats-url"}},
		"version":      {[]string{"version"}, []string{"kvbus ", " go1."}},
		"version flag": {[]string{"--version"}, []string{"kvbus "}},
		"version JSON": {[]string{"version", "--json"}, []string{`"version":`, `"go":"go1.`}},
		"config":       {[]string{"config", "--prefix", "team.kv"}, []string{"prefix: team.kv\n", "max_keys: 10000\n"}},
		"check":        {[]string{"config", "--check"}, []string{"ok\n"}},
		"completion":   {[]string{"completion", "bash"}, []string{"__start_kvbus"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, nil, "kvbus", test.args...)
			p.expectExit(t, 0)
			expectParts(t, p.stdout.String(), test.want...)
			if stderr := p.stderr.String(); stderr != "" {
				t.Errorf("stderr is %q", stderr)
			}
		})
	}
}

// A configuration that was printed is one that can be served with.
func TestPrintedConfigServes(t *testing.T) {
	t.Parallel()
	printed := launch(t, nil, "kvbus", "config", "--listen", "127.0.0.1:0", "--prefix", "team.kv", "--max-keys", "1")
	printed.expectExit(t, 0)
	w := startWorker(t, nil, "--config", writeFile(t, "kvbus.yaml", printed.stdout.String()))
	nc := connect(t, w.awaitLog(t, "serving").text("listen"))
	mustAsk(t, nc, "team.kv.set.color", "blue")
	if _, err := ask(nc, "team.kv.set.other", "red"); err == nil {
		t.Error("a key more than the limit is no error")
	}
}

func TestServingIsLogged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	for name, test := range map[string]struct {
		args  []string
		store string
		keeps string
	}{
		"memory":  {nil, "memory", "nothing"},
		"durable": {[]string{"--data-dir", dir}, "replicated", dir},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, append(test.args, "--prefix", "team.kv")...)
			r := w.awaitLog(t, "serving")
			if host, port, err := net.SplitHostPort(strings.TrimPrefix(r.text("listen"), "nats://")); err != nil || host != "127.0.0.1" || port == "0" {
				t.Errorf("it listens on %q", r.text("listen"))
			}
			if r.text("store") != test.store || r.text("prefix") != "team.kv" || !strings.Contains(r.text("restart_keeps"), test.keeps) {
				t.Errorf("it logs %v", r)
			}
			w.terminate(t)
			w.awaitLog(t, "stopped")
			if text := w.stdout.String(); text != "" {
				t.Errorf("stdout is %q", text)
			}
		})
	}
	t.Run("external", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, "")
		if r := serveOn(t, s.url).awaitLog(t, "serving"); r.text("nats") != s.url || r.text("store") != "memory" {
			t.Errorf("it logs %v", r)
		}
	})
}

func TestTextLog(t *testing.T) {
	t.Parallel()
	w := startWorker(t, nil, "--listen", "127.0.0.1:0", "--log-format", "text")
	if !w.stderr.await(w.ended, containing("serving", "listen=nats://127.0.0.1:", "store=memory", "\n")) {
		t.Errorf("the log is %q", w.stderr.String())
	}
	if strings.Contains(w.stderr.String(), "\x1b") {
		t.Error("there is colour in a log that is not at a terminal")
	}
	w.terminate(t)
}

// A configuration of the server's is taken as it is.
func TestServerFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := writeFile(t, "nats-server.conf", `
		listen: "127.0.0.1:-1"
		jetstream { store_dir: "`+dir+`" }
		accounts {
			APP: { jetstream: enabled, users: [ {user: worker, password: "w"}, {user: app, password: "a"} ] }
			OTHER: { users: [ {user: other, password: "o"} ] }
		}
	`)
	w := startWorker(t, nil, "--nats-config", config, "--user", "worker", "--password", "w")
	url := w.awaitLog(t, "serving").text("listen")
	as := func(user, password string, args ...string) string {
		return terminal{t, url}.nats(append([]string{"--user", user, "--password", password}, args...)...)
	}
	expectParts(t, as("app", "a", "request", "kv.set.color", "blue"), "KV-Revision: 1")
	expectParts(t, as("other", "o", "request", "kv.get.color", ""), "No responders")
	as("app", "a", "stream", "add", "LOG", "--subjects", "kv.events.>", "--defaults")
	if _, err := os.Stat(filepath.Join(dir, "jetstream")); err != nil {
		t.Error(err)
	}
	w.terminate(t)

	refused := startWorker(t, nil, "--nats-config", config, "--user", "worker", "--password", "wrong")
	refused.expectExit(t, 1)
	expectParts(t, refused.stderr.String(), "kvbus: ", "Authorization Violation", "its own server does not take the worker by nats.user")
}
