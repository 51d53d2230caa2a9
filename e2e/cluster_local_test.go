package e2e

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/kv"
)

// Each node answers its own clients: one that stands still keeps nobody waiting but
// those that are connected to it.
func TestClusterWithASilentNode(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	leader := c.logLeader(t, connect(t, c.urls()))
	silent := c.other(t, leader)
	nc := connect(t, c.other(t, leader, silent).url, nats.NoReconnect())
	persist(t, nc, "kv.set.color", "red")
	silent.freeze(t)
	for range 50 {
		for _, subject := range []string{"kv.set.color", "kv.get.color", "kv.keys"} {
			mustAsk(t, nc, subject, "blue")
		}
	}
	silent.kill()
}

// Requests of one connection on one operation take effect in order.
func TestClusterKeepsOrder(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	for _, n := range c.nodes {
		nc := connect(t, n.url, nats.NoReconnect())
		persist(t, nc, "kv.set."+n.name, "first")
		inbox := nc.NewRespInbox()
		answers := subscribe(t, nc, inbox)
		const requests = 500
		for i := range requests {
			if err := nc.PublishRequest("kv.set."+n.name, inbox, []byte(strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
		}
		last := 0
		for range requests {
			m := next(t, answers)
			revision, err := strconv.Atoi(m.Header.Get(bus.HeaderRevision))
			if err != nil || revision <= last {
				t.Fatalf("after revision %d comes %v, with %v", last, m.Header, err)
			}
			last = revision
		}
		if got := mustAsk(t, nc, "kv.get."+n.name, ""); got != strconv.Itoa(requests-1) {
			t.Errorf("%s: the value is %s", n.name, got)
		}
	}
}

// A node that is told to stop has its clients' requests answered, by the others in
// the end, for as long as they are connected to it.
func TestClusterNodeHandsOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	n := c.other(t, c.logLeader(t, connect(t, c.urls())))
	for range 3 {
		if handsOver(t, n) > 0 {
			return
		}
		n.start(t) // on a busy machine the client may have had no turn
		n.await(t)
	}
	t.Error("the other nodes have answered nothing")
}

// handsOver stops a node and returns how many requests of its client the others
// have answered meanwhile.
func handsOver(t *testing.T, n *node) (others int) {
	t.Helper()
	nc := connect(t, n.url, nats.NoReconnect())
	persist(t, nc, "kv.set.color", "red")
	for range 50 {
		if name, err := whoAnswers(nc); err != nil || name != n.name {
			t.Fatalf("%s answers a client of %s: %v", name, n.name, err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		for {
			name, err := whoAnswers(nc)
			switch {
			case err != nil:
				ended <- err
				return
			case name != n.name:
				others++
			}
		}
	}()
	n.terminate(t)
	select {
	case err := <-ended:
		// At the very end, the server closes connections in no order, so the one that
		// hands requests on may go before this one.
		if !isPassing(err) && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("while the node stopped, a request ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("its clients are still connected")
	}
	return others
}

// whoAnswers returns the name of the worker that answers a request.
func whoAnswers(nc *nats.Conn) (string, error) {
	m, err := nc.Request("kv.info", nil, patience)
	if err == nil {
		err = bus.DecodeError(m.Header)
	}
	if err != nil {
		return "", err
	}
	info, err := bus.DecodeInfo(m)
	return info.Name, err
}

// A node that waits for the others says so to its clients.
func TestClusterNodeAlone(t *testing.T) {
	t.Parallel()
	n := newCluster(t).nodes[0]
	n.start(t)
	n.awaitLog(t, "waiting for the cluster")
	nc := connect(t, "nats://"+n.args[1], nats.NoReconnect())
	subscribe(t, nc, ">")
	if _, err := ask(nc, "kv.set.color", "red"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a request is answered with %v", err)
	}
}
