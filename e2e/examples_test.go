package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// examples has the programs in other languages, and in its README what they
// print.
var examples = filepath.Join("bus", "examples")

func TestExampleInJavaScript(t *testing.T) {
	t.Parallel()
	needs(t, "node", "-e", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)")
	needs(t, "npm", "--version")
	dir := t.TempDir()
	for _, name := range []string{"package.json", "walkthrough.js"} {
		text := readDocument(t, filepath.Join(examples, "javascript", name))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	installPackages(t, dir)
	s, text := runExample(t, dir, "node walkthrough.js")

	// Here all of the output is written down.
	var got []string
	for line := range strings.Lines(text) {
		got = append(got, strings.TrimSpace(line))
	}
	if !slices.Equal(got, s.want) {
		t.Errorf("$ %s\nprints\n%s\nwant\n%s", s.command, strings.Join(got, "\n"), strings.Join(s.want, "\n"))
	}
}

func TestExampleOnSocket(t *testing.T) {
	t.Parallel()
	needs(t, "python3", "-c", "import sys; sys.exit(sys.version_info < (3, 8))")
	s, text := runExample(t, filepath.Join(moduleRoot, examples, "python"), "python3 walkthrough.py")
	if line, found := missing(s.want, text); found {
		t.Errorf("$ %s\nprints no %q in this place:\n%s", s.command, line, text)
	}
}

// needs skips the test where a program is not installed, or is not what check,
// its arguments, asks for.
func needs(t *testing.T, name string, check ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	if out, err := exec.CommandContext(t.Context(), name, check...).CombinedOutput(); err != nil {
		t.Skipf("%s is not recent enough, or does not run: %q: %v\n%s", name, check, err, out)
	}
}

// unreachable is how npm reports that it has not reached its registry, and not
// that something is wrong with what it was asked for.
var unreachable = regexp.MustCompile(`npm (?:ERR!|error) code (?:E5\d\d|E40[137]|E429|EAI_AGAIN|ENOTFOUND|ENETUNREACH|EHOSTUNREACH|ECONN[A-Z]+|E[A-Z]*TIMEDOUT|ERR_SOCKET_TIMEOUT|ENOTCACHED)\b`)

// installPackages runs npm install in dir. Where the packages can't be had, or
// not soon, it skips the test.
func installPackages(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("npm", "install", "--no-audit", "--no-fund", "--prefer-offline",
		"--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000")
	cmd.Dir = dir
	// npm starts processes of its own, which are ended with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	text := new(output)
	cmd.Stdout, cmd.Stderr = text, text
	p := run(t, cmd)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.kill()
		t.Skipf("npm has not installed the packages within %v:\n%s", patience, text.String())
	}
	switch {
	case cmd.ProcessState.Success():
	case unreachable.MatchString(text.String()):
		t.Skipf("npm can't reach its registry:\n%s", text.String())
	default:
		t.Fatalf("%v: %v\n%s", cmd.Args, cmd.ProcessState, text.String())
	}
}

// runExample runs a command of the README of the examples on an empty store.
// It returns what is written there, and what the command printed.
func runExample(t *testing.T, dir, command string) (step, string) {
	t.Helper()
	path := filepath.Join(examples, "README.md")
	steps, err := parseSession(readDocument(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	i := slices.IndexFunc(steps, func(s step) bool { return s.command == command })
	if i < 0 || len(steps[i].want) == 0 {
		t.Fatalf("%s does not have what %q prints", path, command)
	}
	w := serve(t)
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(environment(), "NATS_URL="+w.url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	text := new(output)
	cmd.Stdout, cmd.Stderr = text, text
	if status := run(t, cmd).wait(t); status != 0 {
		t.Fatalf("%s:%d: $ %s\nexit status %d\n%s", path, steps[i].line, command, status, text.String())
	}
	return steps[i], text.String()
}
