package e2e

import (
	"strings"
	"testing"
)

// A worker that is started before the name of its server exists waits for it.
func TestWorkerWaitsForName(t *testing.T) {
	t.Parallel()
	// No resolver is asked for a label as long as this one.
	w := startWorker(t, nil, "--nats-url", "nats://"+strings.Repeat("a", 64)+".invalid:4222")
	waits := w.awaitLogs(t, "waiting for NATS", 2)[0]
	expectParts(t, waits.text("error"), "no such host")
	if got := waits.text("retry_in"); got != "2s" {
		t.Errorf("the pause is logged as %v; want 2s", waits["retry_in"])
	}
	w.terminate(t)
}

func TestWorkerDoesNotWaitForNoAddress(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "wrong.json", `{"url": "nats://127.0.0.1:99999"}`)
	w := startWorker(t, nil, "--nats-context", file)
	w.expectExit(t, 1)
	expectParts(t, w.stderr.String(), "kvbus: ", file, "99999", "invalid port")
}
