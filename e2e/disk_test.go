package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
)

// diskSize is the size of a disk of [serveOnDisk], in bytes.
const diskSize = 48 << 20

// onDisk is the environment of a worker on such a disk, and of the other nodes of
// its cluster: a log may be as large as there is room.
var onDisk = []string{"KVBUS_STORE__LOG_MAX_BYTES=0", "KVBUS_STORE__REQUEST_TIMEOUT=1s"}

// serveOnDisk runs a worker with its data on a small disk in memory that only it
// sees, and does not wait for it. A file at filler takes room there.
func serveOnDisk(t *testing.T, args ...string) (w *worker, filler string) {
	t.Helper()
	dir := t.TempDir()
	mount := []string{"--map-root-user", "--mount", "sh", "-c", fmt.Sprintf(`mount -t tmpfs -o size=%d tmpfs "$0" && exec "$@"`, diskSize), dir}
	if out, err := exec.Command("unshare", append(mount, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no disk of a test's own can be mounted here: unshare: %v %s", err, out)
	}
	serve := append(mount, filepath.Join(bin, "kvbus"), "serve", "--log-format", "json", "--data-dir", filepath.Join(dir, "data"))
	cmd := exec.Command("unshare", append(serve, args...)...)
	cmd.Env = append(environment(), onDisk...)
	w = &worker{process: run(t, cmd)}
	return w, filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "root", dir, "filler")
}

// fill has something else take so much of a worker's disk, or all of it.
func fill(t *testing.T, filler string, size int) {
	t.Helper()
	if err := os.WriteFile(filler, make([]byte, size), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Skipf("its disk can't be reached from outside: %v", err)
	}
}

// A full disk loses nothing that was answered, and the worker goes on when there
// is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w, filler := serveOnDisk(t, "--listen", bustest.FreeAddress(t))
	w.url = w.awaitLog(t, "serving").text("listen")
	nc := connect(t, w.url, nats.MaxReconnects(-1))
	fill(t, filler, diskSize-6<<20)
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
	// It goes on to ask, and the worker finds that its server is stuck. It does not
	// start it anew before there is room.
	late := time.Now().Add(4 * patience)
	attempt := func(body string) error {
		if time.Now().After(late) {
			t.Fatalf("the worker does not come back:\n%s", w.stderr.String())
		}
		reply, err := nc.Request("kv.set.more", []byte(body), countTimeout)
		if err == nil {
			err = bus.DecodeError(reply.Header)
		}
		if err != nil && !isPassing(err) {
			t.Fatal(err)
		}
		return err
	}
	stuck := func() bool {
		return len(w.logged("the disk takes nothing: until it does, eventual reads are answered only")) > 0
	}
	for !stuck() {
		if err := attempt("x"); err == nil {
			break // a small one may still fit
		}
	}
	before := len(w.logged("starting anew"))
	for range 5 {
		if !stuck() {
			break
		}
		read := &nats.Msg{Subject: "kv.get.k0", Header: nats.Header{bus.HeaderConsistency: {"eventual"}}}
		if got, err := nc.RequestMsg(read, patience); err != nil || string(got.Data) != value {
			t.Fatalf("with the disk full a read ends with %v, %v", got, err)
		}
		_ = attempt("x")
	}
	if lines := w.logged("starting anew"); stuck() && len(lines) > before {
		t.Errorf("the disk is full, and yet: %v", lines)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for attempt(value) != nil {
	}
	for i := range written {
		if got := persist(t, nc, fmt.Sprint("kv.get.k", i), ""); got != value {
			t.Fatalf("k%d has %d bytes; want %d", i, len(got), len(value))
		}
	}
	nc.Close()
	w.terminate(t)
}

// So does a node of a cluster, however often it was started anew before, and the
// others go on meanwhile.
func TestFullDiskOfANode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "--max-keys", "0")
	full, others := c.nodes[2], c.nodes[:2]
	var filler string
	dir := slices.Index(full.args, "--data-dir")
	full.worker, filler = serveOnDisk(t, slices.Delete(full.args, dir, dir+2)...)
	for _, n := range others {
		n.worker = startWorker(t, onDisk, n.args...)
	}
	for _, n := range c.nodes {
		n.await(t)
	}
	nc := connect(t, others[0].url, nats.MaxReconnects(-1))
	value := strings.Repeat("v", 1000)
	written := 0
	late := time.Now().Add(6 * patience)
	write := func() {
		if time.Now().After(late) {
			t.Fatalf("after %d writes it goes on and on", written)
		}
		_, err := ask(nc, fmt.Sprint("kv.set.k", written), value)
		if err == nil {
			written++
		} else if !isPassing(err) { // the node that takes it may be the full one
			t.Fatal(err)
		}
	}
	fill(t, filler, diskSize)
	for len(full.logged("starting anew")) == 0 {
		write()
	}
	full.awaitLogs(t, "starting anew", 3)
	for before := written; written == before; {
		write()
	}
	served := len(full.logged("serving"))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	full.awaitLogs(t, "serving", served+1)
	own := connect(t, full.url)
	for i := range written {
		if got := persist(t, own, fmt.Sprint("kv.get.k", i), ""); got != value {
			t.Fatalf("k%d has %d bytes; want %d", i, len(got), len(value))
		}
	}
	nc.Close()
	own.Close()
	full.terminate(t)
}
