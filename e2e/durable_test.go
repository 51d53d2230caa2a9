package e2e

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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
