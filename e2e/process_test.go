package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A process is one that a test has started. It is killed at the end of the
// test at the latest.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr output
	ended          chan struct{}
}

// launch starts name from [bin] with the environment of the tests, less what
// is meant for kvbus and nats, and with environ.
func launch(t *testing.T, environ []string, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Env = append(environment(), environ...)
	return run(t, cmd)
}

// run starts cmd. Where the standard outputs are not set yet, they are
// collected.
func run(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: filepath.Base(cmd.Path), cmd: cmd, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.stderr
	}
	// A process that inherits the outputs does not keep the end from being seen.
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // ProcessState has it
	}()
	t.Cleanup(func() {
		p.kill()
		if stdout, stderr := p.stdout.String(), p.stderr.String(); t.Failed() && stdout+stderr != "" {
			t.Logf("%v ended: %v; stdout:\n%s\nstderr:\n%s", cmd.Args, cmd.ProcessState, stdout, stderr)
		}
	})
	return p
}

// kill ends the process at once, with its group if it has one of its own, and
// waits for it.
func (p *process) kill() {
	select {
	case <-p.ended:
		return
	default:
	}
	target := p.cmd.Process.Pid
	if attributes := p.cmd.SysProcAttr; attributes != nil && attributes.Setpgid {
		target = -target
	}
	_ = syscall.Kill(target, syscall.SIGKILL) // it may have ended meanwhile
	<-p.ended
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("send %v to %s: %v", s, p.name, err)
	}
}

// freeze stops the process, which can be killed but does nothing more, and
// returns when all its threads stand still.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || !status.Stopped() {
			t.Fatalf("%s does not stop: %v, %v", p.name, status, err)
		}
		return
	}
}

// wait returns the exit status.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%s has not ended after %v", p.name, patience)
		return -1
	}
}

// expectExit waits for the end and checks the exit status.
func (p *process) expectExit(t *testing.T, want int) {
	t.Helper()
	if got := p.wait(t); got != want {
		t.Fatalf("%v: exit status %d; want %d\n%s%s", p.cmd.Args, got, want, p.stdout.String(), p.stderr.String())
	}
}

// terminate asks for an orderly stop and expects it to be one.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	p.expectExit(t, 0)
}

// environment is the one of the tests without the settings of kvbus and of the
// nats command, and with [bin] in the path. Contexts of the nats command are
// looked for where there are none.
func environment() []string {
	var environ []string
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "KVBUS_") && !strings.HasPrefix(pair, "NATS_") {
			environ = append(environ, pair)
		}
	}
	return append(environ,
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"XDG_CONFIG_HOME="+filepath.Join(bin, "no-config"))
}

// expectParts checks that text has each of the parts.
func expectParts(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("there is no %q in:\n%s", part, text)
		}
	}
}

// writeFile writes a file of the test's own and returns its path.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
