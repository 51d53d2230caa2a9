package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
)

// A cluster is the processes of one, which can be killed and started again.
type cluster struct {
	nodes []*node
}

// A node is a kvbus serve that is part of a cluster.
type node struct {
	*worker
	name    string
	cluster string // address for the other nodes
	dir     string
	args    []string
}

// newCluster prepares a cluster of three nodes that share these arguments.
func newCluster(t *testing.T, args ...string) *cluster {
	t.Helper()
	c := &cluster{}
	var routes []string
	for i := range 3 {
		listen := bustest.FreeAddress(t)
		routes = append(routes, "nats://"+listen)
		dir := t.TempDir()
		c.nodes = append(c.nodes, &node{
			name:    fmt.Sprint("node", i),
			cluster: listen,
			dir:     dir,
			args: append([]string{
				"--listen", bustest.FreeAddress(t),
				"--node-name", fmt.Sprint("node", i),
				"--cluster-listen", listen,
				"--data-dir", dir,
			}, args...),
		})
	}
	for _, n := range c.nodes {
		n.args = append(n.args, "--cluster-routes", strings.Join(routes, ","))
	}
	return c
}

// newFileCluster is newCluster with the cluster in a nats-server.conf of each node.
func newFileCluster(t *testing.T, args ...string) *cluster {
	t.Helper()
	c := newCluster(t)
	var routes []string
	for _, n := range c.nodes {
		routes = append(routes, fmt.Sprintf("%q", "nats://"+n.cluster))
	}
	for _, n := range c.nodes {
		file := writeFile(t, "nats-server.conf", fmt.Sprintf("cluster {name: c, listen: %q, routes: [%s]}", n.cluster, strings.Join(routes, ", ")))
		n.args = append([]string{"--listen", bustest.FreeAddress(t), "--name", n.name, "--nats-config", file, "--data-dir", n.dir, "--replicas", "3"}, args...)
	}
	return c
}

// startCluster runs a cluster and waits until all of it serves.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t)
	c.start(t)
	return c
}

// start runs all nodes and waits until they serve.
func (c *cluster) start(t *testing.T) {
	t.Helper()
	for _, n := range c.nodes {
		n.start(t)
	}
	for _, n := range c.nodes {
		n.await(t)
	}
}

// start runs the node.
func (n *node) start(t *testing.T) {
	t.Helper()
	n.worker = startWorker(t, nil, n.args...)
}

// await waits until the node serves.
func (n *node) await(t *testing.T) {
	t.Helper()
	n.url = n.awaitLog(t, "serving").text("listen")
}

// urls returns where clients find the cluster.
func (c *cluster) urls() string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.url)
	}
	return strings.Join(urls, ",")
}

// logLeader returns the node that leads the log.
func (c *cluster) logLeader(t *testing.T, nc *nats.Conn) *node {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		stream, err := js.Stream(ctx, "KVBUS_kv")
		cancel()
		if err == nil {
			for _, n := range c.nodes {
				if n.name == stream.CachedInfo().Cluster.Leader {
					return n
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log has no leader: %v", err)
		}
	}
}

// publisher returns the node that publishes the events.
func (c *cluster) publisher(t *testing.T) *node {
	t.Helper()
	var found *node
	newest := ""
	for _, n := range c.nodes {
		for _, r := range n.logged("publishing events") {
			if at := r.text("time"); at > newest {
				found, newest = n, at
			}
		}
	}
	if found == nil {
		t.Fatal("nobody publishes the events")
	}
	return found
}

// other returns a node that is none of these.
func (c *cluster) other(t *testing.T, not ...*node) *node {
	t.Helper()
	for _, n := range c.nodes {
		if !slices.Contains(not, n) {
			return n
		}
	}
	t.Fatal("there is no other node")
	return nil
}
