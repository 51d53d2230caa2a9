package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/kv"
)

// A full disk loses nothing that was answered, and the worker goes on when there
// is room again. The disk is one in memory that only the worker sees.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mount := []string{"--map-root-user", "--mount", "sh", "-c", `mount -t tmpfs -o size=48m tmpfs "$0" && exec "$@"`, dir}
	if out, err := exec.Command("unshare", append(mount, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no disk of a test's own can be mounted here: unshare: %v %s", err, out)
	}
	serve := append(mount, filepath.Join(bin, "kvbus"), "serve", "--log-format", "json", "--listen", freeAddress(t), "--data-dir", filepath.Join(dir, "data"))
	cmd := exec.Command("unshare", serve...)
	cmd.Env = append(environment(), "KVBUS_STORE__LOG_MAX_BYTES=0", "KVBUS_STORE__REQUEST_TIMEOUT=1s")
	w := &worker{process: run(t, cmd)}
	w.url = w.awaitLog(t, "serving").text("listen")
	nc := connect(t, w.url, nats.MaxReconnects(-1))

	// All of it but some 6 MB is taken by something else.
	filler := filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "root", dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 42<<20), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Skipf("its disk can't be reached from outside: %v", err)
	}
	value := strings.Repeat("v", 500_000)
	written := 0
	var err error
	for ; written < 100 && err == nil; written++ {
		_, err = ask(nc, fmt.Sprint("kv.set.k", written), value)
	}
	written-- // the last one was not answered
	if !errors.Is(err, kv.ErrTimeout) && !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrQuotaExceeded) {
		t.Fatalf("after %d writes of 500 kB the disk is full: %v", written, err)
	}
	// It goes on to ask, and the worker finds that its server is stuck.
	attempt := func(body string) error {
		reply, err := nc.Request("kv.set.more", []byte(body), countTimeout)
		if err == nil {
			err = bus.DecodeError(reply.Header)
		}
		if err != nil && !isPassing(err) {
			t.Fatal(err)
		}
		return err
	}
	for len(w.logged("starting anew")) == 0 {
		if err := attempt("x"); err == nil {
			break // a small one may still fit
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for attempt(value) != nil {
	}
	for i := range written {
		if got := mustAsk(t, nc, fmt.Sprint("kv.get.k", i), ""); got != value {
			t.Fatalf("k%d has %d bytes; want %d", i, len(got), len(value))
		}
	}
	nc.Close()
	w.terminate(t)
}
