package e2e

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
)

// A listener has the events that come to one node, from the first one on.
type listener struct {
	node *node
	sub  *nats.Subscription
	last uint64
}

// listen begins to listen on a node.
func listen(t *testing.T, n *node) *listener {
	t.Helper()
	l := &listener{node: n, sub: subscribe(t, connect(t, n.url, nats.NoReconnect()), "kv.events.>")}
	l.last = l.revision(t)
	return l
}

func (l *listener) revision(t *testing.T) uint64 {
	t.Helper()
	m := next(t, l.sub)
	revision, err := strconv.ParseUint(m.Header.Get(bus.HeaderRevision), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// until checks that events come in order and that none up to a revision is left
// out; one may come again.
func (l *listener) until(t *testing.T, revision uint64) {
	t.Helper()
	for l.last < revision {
		switch got := l.revision(t); {
		case got == l.last+1:
			l.last = got
		case got > l.last:
			t.Fatalf("%s: the event of revision %d comes after that of %d", l.node.name, got, l.last)
		}
	}
}

// revisionOf asks for the revision of the store.
func revisionOf(t *testing.T, nc *nats.Conn) uint64 {
	t.Helper()
	info, err := bus.DecodeInfo(&nats.Msg{Data: []byte(persist(t, nc, "kv.info", ""))})
	if err != nil {
		t.Fatal(err)
	}
	return info.Revision
}

// The loss of a node under load, whatever it did, loses no increment that was
// answered and counts none twice; the events are complete on the nodes that are
// left, and the node comes back, also with nothing.
func TestClusterLosesANode(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	nc := connect(t, c.urls(), nats.MaxReconnects(-1))
	group := startCounters(t, c)
	group.progress(t)
	for _, victim := range []struct {
		name  string
		node  func() *node
		wiped bool
	}{
		{name: "the leader of the log", node: func() *node { return c.logLeader(t, nc) }},
		{name: "the publisher of the events", node: func() *node { return c.publisher(t) }},
		{name: "another one", node: func() *node { return c.other(t, c.logLeader(t, nc), c.publisher(t)) }},
		{name: "one that comes back with nothing", node: func() *node { return c.logLeader(t, nc) }, wiped: true},
	} {
		n := victim.node()
		t.Logf("%s is %s", victim.name, n.name)
		var listeners []*listener
		for _, other := range c.nodes {
			if other != n {
				listeners = append(listeners, listen(t, other))
			}
		}
		n.kill()
		group.progress(t)
		if victim.wiped {
			if err := os.RemoveAll(n.dir); err != nil {
				t.Fatal(err)
			}
		}
		n.start(t)
		n.await(t)
		group.progress(t)
		revision := revisionOf(t, nc)
		for _, l := range listeners {
			l.until(t, revision)
		}
	}
	group.end(t)
	group.verify(t, nc)
}

// Nodes that are restarted one after the other, in order, serve all the time;
// clients see errors of the kinds that the protocol names and no other.
func TestClusterRollingRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	group := startCounters(t, c)
	for _, n := range c.nodes {
		group.progress(t)
		n.terminate(t)
		n.start(t)
		n.await(t)
	}
	group.progress(t)
	group.end(t)
	group.verify(t, connect(t, c.urls()))
}

// A cluster that was stopped as a whole, in order or not, has everything when it
// is started again, in any order.
func TestClusterStopsAndStarts(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		group := startCounters(t, c)
		group.progress(t)
		group.end(t)
		nc := connect(t, c.urls())
		total := persist(t, nc, "kv.incr.starts", "")
		nc.Close()
		for _, n := range c.nodes {
			n.signal(t, signal)
		}
		for _, n := range c.nodes {
			n.wait(t)
		}
		c.nodes[0], c.nodes[2] = c.nodes[2], c.nodes[0]
		c.start(t)
		nc = connect(t, c.urls())
		if got := persist(t, nc, "kv.get.starts", ""); got != total {
			t.Errorf("after %v the counter is %s, want %s", signal, got, total)
		}
		group.verify(t, nc)
		if got := mustAsk(t, nc, "kv.clear", ""); got == "0" {
			t.Error("there was nothing")
		}
	}
}

// A node alone waits for a majority, and says for whom.
func TestClusterWaitsForAMajority(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.nodes[0].start(t)
	waiting := c.nodes[0].awaitLog(t, "waiting for the cluster")
	for _, n := range c.nodes[1:] {
		if !strings.Contains(waiting.text("for"), n.cluster) {
			t.Errorf("it waits for %q; want %s among them", waiting.text("for"), n.cluster)
		}
	}
	c.nodes[1].start(t)
	c.nodes[2].start(t)
	for _, n := range c.nodes {
		n.await(t)
	}
}

// Two nodes are lost: the third answers unavailable, for as long as it takes, and
// goes on when one is back. It is the same where the cluster is in the file.
func TestClusterWithoutAMajority(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, ...string) *cluster{
		"by settings":         newCluster,
		"by nats-server.conf": newFileCluster,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			for _, n := range c.nodes {
				n.worker = startWorker(t, []string{"KVBUS_STORE__REQUEST_TIMEOUT=500ms"}, n.args...)
			}
			for _, n := range c.nodes {
				n.await(t)
			}
			last := c.nodes[2]
			nc := connect(t, last.url, nats.NoReconnect())
			// All that a cluster makes at first is there once an event comes. Not that of
			// the first write, maybe: other nodes take a moment to know a subscription.
			events := subscribe(t, nc, "kv.events.>")
			for late := time.Now().Add(patience); ; {
				persist(t, nc, "kv.set.color", "blue")
				if _, err := events.NextMsg(100 * time.Millisecond); err == nil {
					break
				}
				if time.Now().After(late) {
					t.Fatal("no event comes")
				}
			}
			c.nodes[0].kill()
			c.nodes[1].kill()
			// Longer than one that stands alone would take itself to be stuck. Its server
			// may still choose a worker that was lost for the first requests.
			const first = 5 * time.Second
			for begun := time.Now(); time.Since(begun) < first+5*time.Second; {
				_, err := ask(nc, "kv.set.color", "green")
				if err != nil && !isPassing(err) || errors.Is(err, nats.ErrNoResponders) && time.Since(begun) > first {
					t.Fatal(err)
				}
			}
			if got := last.logged("starting anew"); len(got) > 0 {
				t.Fatalf("it starts anew: %v", got)
			}
			c.nodes[1].start(t)
			c.nodes[1].await(t)
			persist(t, connect(t, last.url), "kv.get.color", "")
		})
	}
}
