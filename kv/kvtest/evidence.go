package kvtest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// CheckHistory fails t if h does not pass [History.Check]. It then keeps in a
// directory, which it names: history.json, which [ReadHistory] reads, and
// history.html, which shows the operations on the key up to the first answer
// that can't be explained, and how far orders of them got. Of opts it takes
// Patience and Dir.
func CheckHistory(t testing.TB, h History, opts LinearizabilityOptions) {
	t.Helper()
	opts.setDefaults(0)
	err := h.Check(opts.Patience)
	if err == nil {
		return
	}
	dir, failed := keepEvidence(t, h, err, opts)
	if failed != nil {
		t.Errorf("the history can't be kept: %v", failed)
	}
	t.Errorf("%v\nthe history of %d operations is in %s", err, len(h), dir)
}

// keepEvidence writes what is known of a failure into a directory and returns it.
func keepEvidence(t testing.TB, h History, failure error, opts LinearizabilityOptions) (dir string, err error) {
	if dir, err = evidenceDir(t, opts.Dir); err != nil {
		return dir, err
	}
	f, err := os.Create(filepath.Join(dir, "history.json"))
	if err != nil {
		return dir, err
	}
	if err := errors.Join(h.Write(f), f.Close()); err != nil {
		return dir, err
	}
	v, ok := errors.AsType[*violation](failure)
	if !ok || v.undecided > 0 {
		return dir, nil
	}
	_, info := porcupine.CheckOperationsVerbose(sequential(), v.history.operations(), opts.Patience)
	return dir, porcupine.VisualizePath(sequential(), info, filepath.Join(dir, "history.html"))
}

// evidenceDir makes a directory that outlives the test.
func evidenceDir(t testing.TB, dir string) (string, error) {
	if dir != "" {
		return dir, os.MkdirAll(dir, 0o755)
	}
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		return t.ArtifactDir(), nil // without the flag, it goes when the test ends
	}
	return os.MkdirTemp("", fmt.Sprintf("kvbus-history-%s-", time.Now().Format("20060102-150405")))
}
