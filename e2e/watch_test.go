package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A change is a line of kvbus watch.
type change struct {
	Op               string    `json:"op"`
	Key              string    `json:"key"`
	Revision         uint64    `json:"revision"`
	PreviousRevision *uint64   `json:"previous_revision"`
	Time             time.Time `json:"time"`
	ExpiresAt        time.Time `json:"expires_at"`
	Value            *string   `json:"value"`
	Base64           []byte    `json:"value_base64"`
}

// brief is a change in one line, without its times.
func (c change) brief() string {
	text := c.Op
	if c.Key != "" {
		text += " " + c.Key
	}
	if c.Value != nil {
		text += "=" + *c.Value
	}
	if c.Base64 != nil {
		text += "~" + string(c.Base64)
	}
	return text
}

// A watcher is a kvbus watch.
type watcher struct{ *process }

func startWatch(t *testing.T, url string, args ...string) watcher {
	t.Helper()
	return watcher{launch(t, nil, "kvbus", append([]string{"watch", "--server", url, "--log-level", "debug"}, args...)...)}
}

// changes returns what was printed so far.
func (w watcher) changes(t *testing.T) []change {
	t.Helper()
	var all []change
	for line := range strings.Lines(w.stdout.String()) {
		if !strings.HasSuffix(line, "\n") {
			break // the rest comes later
		}
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		var c change
		if err := decoder.Decode(&c); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, c)
	}
	return all
}

// await waits for so many changes and compares them.
func (w watcher) await(t *testing.T, want ...string) []change {
	t.Helper()
	w.stdout.await(w.ended, func(text string) bool { return strings.Count(text, "\n") >= len(want) })
	all := w.changes(t)
	var got []string
	for _, c := range all {
		got = append(got, c.brief())
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%v prints\n%s\nwant\n%s\n%s", w.cmd.Args, strings.Join(got, "\n"), strings.Join(want, "\n"), w.stderr.String())
	}
	return all
}

func (w watcher) interrupt(t *testing.T) {
	t.Helper()
	w.signal(t, syscall.SIGINT)
	w.expectExit(t, 0)
}

func TestWatch(t *testing.T) {
	t.Parallel()
	worker := serve(t)
	client := connect(t, worker.url)
	mustAsk(t, client, "kv.set.user.1.name", "Ada")
	mustAsk(t, client, "kv.set.user.1.mail", "\xff")
	mustAsk(t, client, "kv.set.other", "x")

	some := startWatch(t, worker.url, "--state", "user.*.name")
	all := startWatch(t, worker.url, "--state")
	past := startWatch(t, worker.url, "--from-revision", "2")
	some.await(t, "STATE user.1.name=Ada", "READY")
	all.await(t, "STATE other=x", "STATE user.1.mail~\xff", "STATE user.1.name=Ada", "READY")
	past.await(t, "SET other=x")

	mustAsk(t, client, "kv.touch.user.1.name", "1h")
	mustAsk(t, client, "kv.delete.other", "")
	brief := nats.NewMsg("kv.set.user.2.name")
	brief.Data = []byte("Bob")
	brief.Header.Set("KV-TTL", "50ms")
	request(t, client, brief)
	live := []string{"TOUCH user.1.name", "DELETE other", "SET user.2.name=Bob", "EXPIRE user.2.name"}
	all.await(t, append([]string{"STATE other=x", "STATE user.1.mail~\xff", "STATE user.1.name=Ada", "READY"}, live...)...)
	past.await(t, append([]string{"SET other=x"}, live...)...)
	got := some.await(t, "STATE user.1.name=Ada", "READY", "TOUCH user.1.name", "SET user.2.name=Bob", "EXPIRE user.2.name")

	for i, revision := range []uint64{1, 3, 4, 6, 7} {
		if got[i].Revision != revision {
			t.Errorf("line %d has the revision %d; want %d", i+1, got[i].Revision, revision)
		}
	}
	touch, set, expiry := got[2], got[3], got[4]
	if *touch.PreviousRevision != 1 || *set.PreviousRevision != 0 || *expiry.PreviousRevision != 6 {
		t.Errorf("the previous revisions are %d, %d and %d", *touch.PreviousRevision, *set.PreviousRevision, *expiry.PreviousRevision)
	}
	if left := touch.ExpiresAt.Sub(touch.Time); left != time.Hour {
		t.Errorf("touched for an hour, the key lives %v", left)
	}
	if expiry.Time.Before(set.ExpiresAt) || !expiry.ExpiresAt.IsZero() {
		t.Errorf("due at %v, the key expired at %v", set.ExpiresAt, expiry.Time)
	}
	some.interrupt(t)
	all.interrupt(t)
	past.terminate(t)
	if text := all.stderr.String(); text != "" {
		t.Errorf("all went well, and stderr has %s", text)
	}
}

// What happened while the connection was lost comes after it.
func TestWatchOverARestartOfTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	serveOn(t, s.url)
	client := connect(t, s.url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	mustAsk(t, client, "kv.set.color", "blue")
	all, some := startWatch(t, s.url, "--state"), startWatch(t, s.url, "--state", "color")
	all.await(t, "STATE color=blue", "READY")
	some.await(t, "STATE color=blue", "READY")

	for _, color := range []string{"green", "red"} {
		s.kill()
		s.start(t)
		// The client and the worker may be there before the watches, or after.
		persist(t, client, "kv.set.color", color)
	}
	all.await(t, "STATE color=blue", "READY", "SET color=green", "SET color=red")
	some.await(t, "STATE color=blue", "READY", "SET color=green", "SET color=red")
	if got := all.changes(t); got[2].Revision != 2 || got[3].Revision != 3 {
		t.Errorf("the revisions are %d and %d; want 2 and 3", got[2].Revision, got[3].Revision)
	}
	all.interrupt(t)
	some.interrupt(t)
}

// Who was away for too long is told what to do.
func TestWatchFromWhatIsNoLongerHeld(t *testing.T) {
	t.Parallel()
	config := writeFile(t, "kvbus.yaml", "store: {replay: {max_events: 4}}")
	worker := serve(t, "--config", config)
	client := connect(t, worker.url)
	for range 10 {
		mustAsk(t, client, "kv.incr.visits", "")
	}
	for _, revision := range []string{"2", "99"} {
		w := startWatch(t, worker.url, "--from-revision", revision)
		w.expectExit(t, 1)
		if w.stdout.String() != "" {
			t.Errorf("it prints %s", w.stdout.String())
		}
		expectParts(t, w.stderr.String(), "kvbus: the service does not hold all changes after revision "+revision, "--state")
	}
}

func TestWatchWithoutAService(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	w := startWatch(t, s.url)
	w.expectExit(t, 1)
	expectParts(t, w.stderr.String(), "kvbus: watch: ", "unavailable")
	if w.stdout.String() != "" {
		t.Errorf("it prints %s", w.stdout.String())
	}
}

// As with head, the reader has enough after the first line.
func TestWatchIntoAClosedPipe(t *testing.T) {
	t.Parallel()
	worker := serve(t)
	client := connect(t, worker.url)
	mustAsk(t, client, "kv.set.color", "blue")

	cmd := exec.Command(filepath.Join(bin, "kvbus"), "watch", "--server", worker.url, "--state")
	cmd.Env = environment()
	reader, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := run(t, cmd)
	if _, err := reader.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	reader.Close()
	mustAsk(t, client, "kv.set.color", "green")
	p.expectExit(t, 0)
	if text := p.stderr.String(); text != "" {
		t.Errorf("stderr has %s", text)
	}
}
