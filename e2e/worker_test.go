package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// A worker is a kvbus serve.
type worker struct {
	*process
	url string // of its NATS server
}

// A record is a line of a worker's log.
type record map[string]any

// text returns an attribute; "" where there is none.
func (r record) text(key string) string {
	text, _ := r[key].(string)
	return text
}

// serve runs a worker with a server of its own and waits until it serves.
func serve(t *testing.T, args ...string) *worker {
	t.Helper()
	w := startWorker(t, nil, append([]string{"--listen", "127.0.0.1:0"}, args...)...)
	w.url = w.awaitLog(t, "serving").text("listen")
	return w
}

// serveOn runs a worker on the server at url and waits until it serves.
func serveOn(t *testing.T, url string, args ...string) *worker {
	t.Helper()
	w := startWorker(t, nil, append([]string{"--nats-url", url}, args...)...)
	w.url = url
	w.awaitLog(t, "serving")
	return w
}

// startWorker runs a worker and does not wait for it.
func startWorker(t *testing.T, environ []string, args ...string) *worker {
	t.Helper()
	return &worker{process: launch(t, environ, "kvbus", append([]string{"serve"}, args...)...)}
}

// logged returns the records with this message. A line that is none is passed
// over: the last one before the end may be the error, and one may be half
// written.
func (w *worker) logged(message string) []record {
	var found []record
	for line := range strings.Lines(w.stderr.String()) {
		var r record
		if json.Unmarshal([]byte(line), &r) == nil && r.text("msg") == message {
			found = append(found, r)
		}
	}
	return found
}

// awaitLog waits for a record with this message and returns the first.
func (w *worker) awaitLog(t *testing.T, message string) record {
	t.Helper()
	return w.awaitLogs(t, message, 1)[0]
}

// awaitLogs waits for so many records with this message.
func (w *worker) awaitLogs(t *testing.T, message string, count int) []record {
	t.Helper()
	if !w.stderr.await(w.ended, func(string) bool { return len(w.logged(message)) >= count }) {
		t.Fatalf("%v logs %q %d times; want %d", w.cmd.Args, message, len(w.logged(message)), count)
	}
	return w.logged(message)
}

// awaitOne waits until one of the workers serves and the others have ended, and
// returns it and them.
func awaitOne(t *testing.T, workers []*worker) (serves *worker, refused []*worker) {
	t.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var left []*worker
		refused = nil
		for _, w := range workers {
			select {
			case <-w.ended:
				refused = append(refused, w)
			default:
				left = append(left, w)
			}
		}
		if len(left) == 1 && len(left[0].logged("serving")) > 0 {
			return left[0], refused
		}
		if len(left) == 0 || time.Now().After(late) {
			t.Fatalf("%d workers are left", len(left))
		}
	}
}

// serveMonitored runs a worker with a server of its own that has monitoring,
// and returns the monitoring's URL as well.
func serveMonitored(t *testing.T, args ...string) (w *worker, monitor string) {
	t.Helper()
	config := writeFile(t, "nats-server.conf", `http: "127.0.0.1:-1"`)
	w = serve(t, append([]string{"--nats-config", config, "--log-level", "debug"}, args...)...)
	return w, monitorURL(t, w.stderr.String())
}
