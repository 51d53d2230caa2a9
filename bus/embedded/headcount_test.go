package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"kvbus/bus/bustest"
	"kvbus/bus/embedded"
)

// inPlaceOf returns a node that is not started, with the address of another one, an
// empty directory and a name of its own.
func inPlaceOf(t *testing.T, lost *node, name string) *node {
	t.Helper()
	n := &node{opts: lost.opts, log: record(slog.LevelInfo)}
	n.opts.ServerName = name
	n.opts.StoreDir = t.TempDir()
	n.opts.Logger = slog.New(n.log)
	return n
}

// warnsOf waits for the warning that says who is away.
func (n *node) warnsOf(t *testing.T, away string) {
	t.Helper()
	eventually(t, "read the log", func(context.Context) error {
		line := n.log.find("WARN nats-server JetStream counts more servers than the routes name")
		if !strings.HasSuffix(line, " counted=4 majority=3 named=3 away="+away) {
			return fmt.Errorf("%s warns %q", n.opts.ServerName, line)
		}
		return nil
	})
}

// JetStream counts a server that takes the place of another beside that one, if it has
// another name.
func TestServerUnderAnotherName(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	startAll(t, nodes)
	createLog(t, nodes[0].jetStream(t))
	lost := nodes[2]
	lostPeer := "one of unknown name with peer ID " + lost.Peer()
	shutdown(t, lost.Server)

	stranger := inPlaceOf(t, lost, "stranger")
	stranger.start(t)
	stranger.ready(t)
	nodes[0].warnsOf(t, "node-2")
	nodes[1].warnsOf(t, "node-2")
	stranger.warnsOf(t, lostPeer) // it never met it
	strangerPeer := "one of unknown name with peer ID " + stranger.Peer()

	// Two of the three that run are no majority, which they know from their disks.
	for _, n := range []*node{nodes[0], nodes[1], stranger} {
		shutdown(t, n.Server)
	}
	nodes[0].start(t)
	nodes[1].start(t)
	counts := fmt.Sprintf("; JetStream counts 4 servers and needs 3, and the routes name 3; away: %s, %s",
		min(lostPeer, strangerPeer), max(lostPeer, strangerPeer))
	eventually(t, "wait for a majority of four", func(context.Context) error {
		if _, waitingFor := nodes[0].JetStreamReady(); !strings.HasSuffix(waitingFor, "; connected to node-1"+counts) {
			return errors.New(waitingFor)
		}
		return nil
	})

	// The one that was lost, with nothing, beside the stranger: nobody is away, and the
	// log is on three servers again.
	stranger.start(t)
	stranger.ready(t)
	back := inPlaceOf(t, lost, lost.opts.ServerName)
	back.opts.Cluster.Listen = bustest.FreeAddress(t)
	back.start(t)
	back.ready(t)
	js := back.jetStream(t)
	eventually(t, "bring the log to three servers", func(context.Context) error {
		for _, replica := range status(t, js).Replicas {
			if replica.Offline || !replica.Current {
				return fmt.Errorf("a replica is not current: %+v", replica)
			}
		}
		if text, beyond := nodes[0].Headcount(); beyond {
			return errors.New(text)
		}
		return nil
	})
	publish(t, js, 1)
}

// A server of the routes that is away is none too many.
func TestHeadcount(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	nodes[0].opts.Cluster.Routes = nodes[0].opts.Cluster.Routes[1:] // without itself
	startAll(t, nodes)
	shutdown(t, nodes[2].Server)
	for _, n := range nodes[:2] {
		eventually(t, "miss the third", func(context.Context) error {
			text, beyond := n.Headcount()
			if beyond || text != "JetStream counts 3 servers and needs 2, and the routes name 3; away: node-2" {
				return fmt.Errorf("%s; beyond the routes: %v", text, beyond)
			}
			return nil
		})
	}
}

func TestHeadcountOfTheFilesCluster(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "cluster.conf", fmt.Sprintf(`cluster { name: c, listen: %q, routes: ["nats://%s"] }`,
		bustest.FreeAddress(t), bustest.FreeAddress(t)))
	s := start(t, embedded.Options{ServerName: "a", ConfigFile: file, JetStream: true, StoreDir: t.TempDir()})
	if text, beyond := s.Headcount(); beyond || !strings.Contains(text, "counts 0 servers") {
		t.Errorf("%s; beyond the routes: %v", text, beyond)
	}
}
