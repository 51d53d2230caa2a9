package e2e

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// A store in memory has one worker: a second one with the same prefix is told
// what to do, and the first goes on.
func TestSecondWorkerIsRefused(t *testing.T) {
	t.Parallel()
	first := serve(t)
	c := terminal{t, first.url}
	c.request("kv.set.color", "blue")

	watch := startWatch(t, first.url, "--state")
	watch.await(t, "STATE color=blue", "READY")

	second := startWorker(t, nil, "--nats-url", first.url)
	second.expectExit(t, 1)
	expectParts(t, second.stderr.String(), "kvbus: ", "already serves", `prefix "kv"`, "--prefix", "--nats-url")
	if got := c.request("kv.get.color", ""); got != "blue" {
		t.Errorf("the value is %q; want blue", got)
	}
	// The watch goes on, also after the next heartbeat of the first: it has heard
	// nothing of the second.
	beats, err := connect(t, first.url).SubscribeSync("kv.revision")
	if err != nil {
		t.Fatal(err)
	}
	c.request("kv.set.color", "green")
	if _, err := beats.NextMsg(patience); err != nil {
		t.Fatal(err)
	}
	c.request("kv.set.color", "red")
	watch.await(t, "STATE color=blue", "READY", "SET color=green", "SET color=red")
	watch.interrupt(t)
	first.terminate(t)
}

func TestWorkersWithOtherPrefixes(t *testing.T) {
	t.Parallel()
	first := serve(t)
	second := serveOn(t, first.url, "--prefix", "kv.two")
	c := terminal{t, first.url}
	c.request("kv.set.color", "blue")
	c.request("kv.two.set.color", "red")
	if one, two := c.request("kv.get.color", ""), c.request("kv.two.get.color", ""); one != "blue" || two != "red" {
		t.Errorf("the values are %q and %q; want blue and red", one, two)
	}
	second.terminate(t)
	first.terminate(t)
}

// Of workers that start at the same moment exactly one stays. Another may have
// served for a moment, where an answer came late.
func TestWorkersStartTogether(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	for _, count := range []int{2, 2, 4} {
		var workers []*worker
		for range count {
			workers = append(workers, startWorker(t, nil, "--nats-url", s.url))
		}
		stays, others := awaitOne(t, workers)
		for _, w := range others {
			w.expectExit(t, 1)
			expectParts(t, w.stderr.String(), "already serves")
		}
		client := connect(t, s.url)
		if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
			t.Errorf("set answers %q; want 1", got)
		}
		stays.terminate(t)
	}
}

// When the worker that served is gone, another one can take its place.
func TestWorkerFollowsAnother(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	serveOn(t, s.url).kill()
	w := serveOn(t, s.url)
	w.terminate(t)
}

// The server comes back to two workers, of which one was there before: that one
// stays, whichever is the first to connect.
func TestWorkerIsAwayWhileAnotherStarts(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	first := serveOn(t, s.url)
	mustAsk(t, connect(t, s.url), "kv.set.color", "blue")
	s.kill()
	first.awaitLog(t, "disconnected from NATS")
	second := startWorker(t, nil, "--nats-url", s.url)
	second.awaitLog(t, "waiting for NATS")
	s.start(t)

	second.expectExit(t, 1)
	expectParts(t, second.stderr.String(), "already serves")
	first.awaitLog(t, "reconnected to NATS")
	if got := request(t, connect(t, s.url), nats.NewMsg("kv.get.color")); string(got.Data) != "blue" {
		t.Errorf("the value is %q; want blue", got.Data)
	}
	first.terminate(t)
}
