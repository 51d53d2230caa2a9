package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
)

func TestDurableRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for start := 1; start <= 3; start++ {
		w := serve(t, "--data-dir", dir)
		nc := connect(t, w.url)
		if got := mustAsk(t, nc, "kv.incr.starts", ""); got != strconv.Itoa(start) {
			t.Errorf("start %d counts as %s", start, got)
		}
		nc.Close()
		w.terminate(t)
	}
}

// Who starts a store that runs already is refused, and harms nothing.
func TestDurableStartedTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := serve(t, "--data-dir", dir)
	nc := connect(t, w.url)
	mustAsk(t, nc, "kv.set.before", "1")
	for _, listen := range []string{strings.TrimPrefix(w.url, "nats://"), "127.0.0.1:0"} {
		second := startWorker(t, nil, "--listen", listen, "--data-dir", dir)
		second.expectExit(t, 1)
		if text := second.stderr.String(); !strings.Contains(text, "another process uses the store directory") || !strings.Contains(text, dir) {
			t.Errorf("a second start on %s says:\n%s", listen, text)
		}
	}
	mustAsk(t, nc, "kv.set.after", "2")
	w.kill()
	nc = connect(t, serve(t, "--data-dir", dir).url)
	if got := mustAsk(t, nc, "kv.keys", ""); got != "after\nbefore" {
		t.Errorf("the keys are %q", got)
	}
}

// Whatever was answered before the process was killed is there afterwards, in
// each of several rounds; an increment that was answered counts, and none counts
// twice.
func TestDurableKill(t *testing.T) {
	t.Parallel()
	const rounds, clients = 3, 8
	dir := t.TempDir()
	var (
		mu       sync.Mutex
		answered = map[string]string{} // last value that was answered, by key
		asked    = map[string]string{} // last value that was asked for, by key
		counted  int                   // increments answered
		tried    int                   // increments asked for
	)
	for round := range rounds {
		w := serve(t, "--data-dir", dir)
		var running sync.WaitGroup
		enough := make(chan struct{})
		var reached sync.Once
		for client := range clients {
			nc := connect(t, w.url, nats.NoReconnect())
			key := fmt.Sprint("client.", client)
			running.Go(func() {
				for i := 1; ; i++ {
					value := fmt.Sprint(round, ".", i)
					mu.Lock()
					asked[key] = value
					tried++
					mu.Unlock()
					if _, err := ask(nc, "kv.set."+key, value); err != nil {
						return
					}
					mu.Lock()
					answered[key] = value
					mu.Unlock()
					if _, err := ask(nc, "kv.incr.n", ""); err != nil {
						return
					}
					mu.Lock()
					if counted++; counted >= (round+1)*1000 {
						reached.Do(func() { close(enough) })
					}
					mu.Unlock()
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(patience):
			t.Fatal("too little was answered")
		}
		w.kill()
		running.Wait()

		w = serve(t, "--data-dir", dir)
		nc := connect(t, w.url)
		for key, want := range answered {
			got := mustAsk(t, nc, "kv.get."+key, "")
			if got != want && got != asked[key] {
				t.Errorf("round %d: %s holds %s; %s was answered, %s was asked for", round, key, got, want, asked[key])
			}
			answered[key] = got
		}
		n, err := strconv.Atoi(mustAsk(t, nc, "kv.get.n", ""))
		if err != nil || n < counted || n > tried {
			t.Errorf("round %d: %d increments were answered of %d asked for; they make %d, %v", round, counted, tried, n, err)
		}
		counted = n
		nc.Close()
		w.kill()
	}
}

// Workers on an external JetStream share one store; when one is killed the other
// goes on, with all that was answered.
func TestReplicatedOnExternalServer(t *testing.T) {
	t.Parallel()
	server := startServer(t, fmt.Sprintf("jetstream: {store_dir: %q}", t.TempDir()))
	first := serveOn(t, server.url, "--replicated")
	second := serveOn(t, server.url, "--replicated")
	nc := connect(t, server.url)
	events, err := nc.SubscribeSync("kv.events.>")
	if err != nil {
		t.Fatal(err)
	}
	const increments = 200
	for i := 1; i <= increments; i++ {
		if got := mustAsk(t, nc, "kv.incr.n", ""); got != strconv.Itoa(i) {
			t.Fatalf("increment %d makes %s", i, got)
		}
	}
	first.kill()
	deadline := time.Now().Add(patience)
	for i := increments + 1; i <= 2*increments; {
		// What was given to the worker that is gone is answered by nobody, or
		// counted and not told.
		answer, err := nc.Request("kv.incr.n", nil, time.Second)
		if err != nil && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(string(answer.Data))
		if err != nil || n < i {
			t.Fatalf("increment %d makes %q, %v", i, answer.Data, bus.DecodeError(answer.Header))
		}
		i = n + 1
	}
	last, err := strconv.Atoi(mustAsk(t, nc, "kv.get.n", ""))
	if err != nil {
		t.Fatal(err)
	}
	for next := 1; next <= last; {
		m, err := events.NextMsg(patience)
		if err != nil {
			t.Fatalf("event %d: %v", next, err)
		}
		switch revision, err := strconv.Atoi(m.Header.Get(bus.HeaderRevision)); {
		case err != nil || revision > next:
			t.Fatalf("revision %q came, want %d", m.Header.Get(bus.HeaderRevision), next)
		case revision == next:
			next++
		}
	}
	second.terminate(t)
}

// What is said of the disk is what the server does, which the file may choose.
func TestSyncAlwaysOfTheFile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		interval string
		args     []string
		want     bool
	}{
		"the file syncs":         {"always", nil, true},
		"the file does not sync": {"2m", []string{"--sync-always"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := writeFile(t, "nats-server.conf", fmt.Sprintf("jetstream {sync_interval: %s}", tt.interval))
			w := serve(t, append([]string{"--nats-config", file, "--data-dir", t.TempDir()}, tt.args...)...)
			if got := w.logged("serving")[0]["sync_always"]; got != tt.want {
				t.Errorf("the log says %v", got)
			}
			expectParts(t, mustAsk(t, connect(t, w.url), "kv.info", ""), fmt.Sprintf(`"sync_always":%v`, tt.want))
		})
	}
}
