package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/bus/embedded"
)

// A node is a server of a cluster that a test may end and start again.
type node struct {
	*embedded.Server
	opts embedded.Options
	log  recorder
}

// cluster returns so many nodes that are not started, with all their routes.
func cluster(t *testing.T, size int) []*node {
	t.Helper()
	var routes []string
	nodes := make([]*node, size)
	for i := range nodes {
		listen := bustest.FreeAddress(t)
		routes = append(routes, "nats://"+listen)
		log := record(slog.LevelInfo)
		nodes[i] = &node{log: log, opts: embedded.Options{
			ServerName: fmt.Sprintf("node-%d", i),
			JetStream:  true,
			StoreDir:   t.TempDir(),
			Cluster:    embedded.Cluster{Name: "c", Listen: listen},
			Logger:     slog.New(log),
		}}
	}
	for _, n := range nodes {
		n.opts.Cluster.Routes = routes
	}
	return nodes
}

// startAll starts nodes, and waits until each is ready.
func startAll(t *testing.T, nodes []*node) {
	t.Helper()
	for _, n := range nodes {
		n.start(t)
	}
	for _, n := range nodes {
		n.ready(t)
	}
}

func (n *node) start(t *testing.T) {
	t.Helper()
	n.Server = start(t, n.opts)
}

func (n *node) ready(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n.WaitForQuorum(ctx); err != nil {
		t.Fatalf("%v; log: %q", err, n.log.all())
	}
}

func (n *node) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(inProcess(t, n.Server))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// eventually tries until it works, which must be soon.
func eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := try(attempt)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func createLog(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	eventually(t, "create a stream", func(ctx context.Context) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log"}, Replicas: 3})
		return err
	})
}

func publish(t *testing.T, js jetstream.JetStream, want uint64) {
	t.Helper()
	eventually(t, "publish", func(ctx context.Context) error {
		ack, err := js.Publish(ctx, "log", []byte("x"),
			jetstream.WithExpectLastSequence(want-1),
			jetstream.WithMsgID(fmt.Sprint(want)), // one that was stored without an answer is acknowledged again
		)
		if err == nil && ack.Sequence != want {
			t.Fatalf("sequence is %d, want %d", ack.Sequence, want)
		}
		return err
	})
}

// reach sends a message from one node to another, once each knows what the other
// listens to.
func reach(t *testing.T, from, to *node) {
	t.Helper()
	subject := nats.NewInbox() // one of an earlier call would be known already
	sub, err := inProcess(t, to.Server).SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	nc := overTCP(t, from.Server)
	eventually(t, "send a message over a route", func(context.Context) error {
		if err := nc.Publish(subject, nil); err != nil {
			return err
		}
		_, err := sub.NextMsg(50 * time.Millisecond)
		return err
	})
}

func TestClusterInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 0, 1}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, 3)
			last := nodes[order[2]]
			for _, i := range order[:2] {
				nodes[i].start(t)
			}
			// None can know what the last one has, which comes when it comes.
			eventually(t, "connect the first two", func(context.Context) error {
				_, waitingFor := nodes[order[0]].JetStreamReady()
				if !strings.Contains(waitingFor, "; connected to "+nodes[order[1]].Name()) || !strings.Contains(waitingFor, last.opts.Cluster.Listen) {
					return errors.New(waitingFor)
				}
				return nil
			})
			last.start(t)
			for _, n := range nodes {
				n.ready(t)
			}

			createLog(t, last.jetStream(t))
			publish(t, nodes[order[0]].jetStream(t), 1)
			reach(t, nodes[0], nodes[1])
			reach(t, nodes[1], nodes[2])
			reach(t, nodes[2], nodes[0])
			if got, want := last.ClusterAddr().String(), last.opts.Cluster.Listen; got != want {
				t.Errorf("it listens for others on %s, want %s", got, want)
			}
		})
	}
}

func TestRoutesToOthersOnly(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	for i, n := range nodes {
		n.opts.Cluster.Routes = slices.Delete(slices.Clone(n.opts.Cluster.Routes), i, i+1)
		n.start(t)
	}
	for _, n := range nodes {
		n.ready(t)
	}
	createLog(t, nodes[0].jetStream(t))
}

func TestTwoOfThreeGoOn(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	startAll(t, nodes)
	js := nodes[0].jetStream(t)
	createLog(t, js)
	publish(t, js, 1)

	leader := slices.IndexFunc(nodes, func(n *node) bool { return n.Name() == status(t, js).Leader })
	ended, other := nodes[leader], nodes[(leader+1)%3]
	shutdown(t, ended.Server)
	js = other.jetStream(t)
	for sequence := range uint64(10) {
		publish(t, js, sequence+2)
	}

	ended.start(t)
	ended.ready(t)
	eventually(t, "catch up", func(context.Context) error {
		info := status(t, js)
		for _, replica := range info.Replicas {
			if replica.Offline || !replica.Current || replica.Lag > 0 {
				return fmt.Errorf("a replica is not current: %+v", replica)
			}
		}
		if len(info.Replicas) != 2 || info.Leader == "" {
			return fmt.Errorf("the leader is %q, with %d others", info.Leader, len(info.Replicas))
		}
		return nil
	})
	publish(t, ended.jetStream(t), 12)

	// One that knows the cluster from before is not ready by itself.
	for _, n := range nodes {
		shutdown(t, n.Server)
	}
	ended.start(t)
	if ready, _ := ended.JetStreamReady(); ready {
		t.Error("one of three is ready alone")
	}
	other.start(t)
	ended.ready(t)
	other.ready(t)
	publish(t, ended.jetStream(t), 13)
}

// status is what the leader of the log tells about its replicas.
func status(t *testing.T, js jetstream.JetStream) jetstream.ClusterInfo {
	t.Helper()
	var info jetstream.ClusterInfo
	eventually(t, "look up the stream", func(ctx context.Context) error {
		stream, err := js.Stream(ctx, "LOG")
		if err == nil {
			info = *stream.CachedInfo().Cluster
		}
		return err
	})
	return info
}

func TestWaitForQuorumSaysForWhom(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	nodes[0].start(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	result := make(chan error, 1)
	go func() { result <- nodes[0].WaitForQuorum(ctx) }()

	missing := fmt.Sprintf("other servers; no route to nats://%s, nats://%s", nodes[1].opts.Cluster.Listen, nodes[2].opts.Cluster.Listen)
	eventually(t, "read the log", func(context.Context) error {
		if nodes[0].log.find("INFO nats-server waiting for the cluster for="+missing) == "" {
			return fmt.Errorf("no wait for %s in %q", missing, nodes[0].log.all())
		}
		return nil
	})
	cause := errors.New("enough")
	cancel(cause)
	err := <-result
	if !errors.Is(err, cause) {
		t.Errorf("the cause is lost: %v", err)
	}
	requireIn(t, err, "node-0 waits for "+missing)

	go func() { result <- nodes[0].WaitForQuorum(t.Context()) }()
	shutdown(t, nodes[0].Server)
	requireIn(t, <-result, "node-0 has ended while it waited")
}

// JetStream that ends by itself, as on a full disk, ends the wait for the others.
func TestWaitForQuorumWithoutJetStream(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	nodes[0].start(t)
	result := make(chan error, 1)
	go func() { result <- nodes[0].WaitForQuorum(t.Context()) }()
	nodes[0].EndJetStream(t)
	select {
	case err := <-result:
		if !errors.Is(err, embedded.ErrNoJetStream) {
			t.Errorf("the wait ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it waits for what does not come")
	}
}

func TestQuorumOfOne(t *testing.T) {
	s := start(t, embedded.Options{JetStream: true, StoreDir: t.TempDir()})
	if err := s.WaitForQuorum(t.Context()); err != nil {
		t.Error(err)
	}
	if s.ClusterAddr() != nil {
		t.Errorf("it listens for others on %v", s.ClusterAddr())
	}
	s = start(t, embedded.Options{})
	requireIn(t, s.WaitForQuorum(t.Context()), "JetStream is not enabled")
}

func TestRouteAuthentication(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	for _, n := range nodes {
		n.opts.Cluster.User, n.opts.Cluster.Password = "node", "hunter2"
		n.opts.Cluster.Routes = n.opts.Cluster.Routes[:2]
	}
	stranger := nodes[2]
	stranger.opts.Cluster.Password = "guessed"
	for _, n := range nodes {
		n.start(t)
	}
	nodes[0].ready(t)
	nodes[1].ready(t)
	isNotLetIn(t, stranger, stranger.log, "Authorization Violation")
	for _, n := range nodes {
		for _, line := range n.log.all() {
			if strings.Contains(line, "hunter2") || strings.Contains(line, "guessed") {
				t.Errorf("a secret in the log: %q", line)
			}
		}
	}
}

func TestRoutesOverTLS(t *testing.T) {
	t.Parallel()
	cert, key, ca := certificate(t)
	nodes := cluster(t, 3)
	for _, n := range nodes {
		n.opts.Cluster.TLS = embedded.ClusterTLS{CA: ca, Cert: cert, Key: key}
		n.opts.Cluster.Routes = n.opts.Cluster.Routes[:2]
	}
	stranger := nodes[2]
	cert, key, _ = certificate(t)
	stranger.opts.Cluster.TLS.Cert, stranger.opts.Cluster.TLS.Key = cert, key
	for _, n := range nodes {
		n.start(t)
	}
	nodes[0].ready(t)
	nodes[1].ready(t)
	reach(t, nodes[0], nodes[1])
	// Who is asked says why; the other side is only hung up on.
	isNotLetIn(t, stranger, nodes[0].log, "TLS route handshake error")
}

// isNotLetIn waits until a log has the reason why a node gets no route.
func isNotLetIn(t *testing.T, n *node, log recorder, reason string) {
	t.Helper()
	eventually(t, "read the log", func(context.Context) error {
		if !slices.ContainsFunc(log.all(), func(line string) bool { return strings.Contains(line, reason) }) {
			return fmt.Errorf("no %q in %q", reason, log.all())
		}
		return nil
	})
	ready, waitingFor := n.JetStreamReady()
	if ready || !strings.Contains(waitingFor, "no route to") || strings.Contains(waitingFor, "connected") {
		t.Errorf("ready is %v, waiting for %q", ready, waitingFor)
	}
}
