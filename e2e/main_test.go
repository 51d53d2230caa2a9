package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	// The tests run what is built from this package. Go would take a result
	// from its cache after a change there if nothing imported it.
	_ "kvbus/cmd"
)

// bin is the directory with the executables: kvbus, nats and nats-server.
var bin string

// moduleRoot is the root of the module, from the directory that tests run in.
const moduleRoot = ".."

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "kvbus-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(bin) }() // among the temporary files anyway
	takeSignals()
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// takeSignals has processes that tests start take a hangup, which these tests
// themselves may have been told to ignore, as by nohup.
func takeSignals() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

func build() error {
	// What the version control says would have it linked anew at each commit.
	args := []string{"build", "-buildvcs=false", "-o", filepath.Join(bin, "kvbus")}
	if raceDetector {
		args = append(args, "-race")
	}
	if _, err := runGo(append(args, "./cmd/kvbus")...); err != nil {
		return err
	}
	for _, tool := range []string{"nats", "nats-server"} {
		// It prints where the executable is in the cache, and puts it there.
		path, err := runGo("tool", "-modfile=e2e/tools.mod", "-n", tool)
		if err != nil {
			return err
		}
		if err := os.Symlink(path, filepath.Join(bin, tool)); err != nil {
			return err
		}
	}
	return nil
}

// runGo runs the go command in the root of the module and returns what it
// prints.
func runGo(args ...string) (string, error) {
	var stderr bytes.Buffer
	command := exec.Command("go", args...)
	command.Dir = moduleRoot
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w\n%s", command, err, stderr.Bytes())
	}
	return string(bytes.TrimSpace(out)), nil
}
