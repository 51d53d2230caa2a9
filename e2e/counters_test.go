package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"kvbus/bus"
	"kvbus/kv"
)

const (
	// countTimeout is how long a counter waits for an answer before it asks
	// again.
	countTimeout = 3 * time.Second
	// countPause is how long it waits after an error.
	countPause = 20 * time.Millisecond
)

// Counters are clients that each increment a key of their own, one request at a
// time, until they are stopped. A request that fails for a reason that the
// protocol names is repeated with the same id until it is answered.
type counters struct {
	clients []*counter
	stop    chan struct{}
	running sync.WaitGroup
}

type counter struct {
	nc  *nats.Conn
	key string

	mu       sync.Mutex
	answered int
	failures map[string]int
	longest  time.Duration // between two answers
}

// startCounters runs two clients for each node, which go to the others while it
// is gone.
func startCounters(t *testing.T, c *cluster) *counters {
	t.Helper()
	group := &counters{stop: make(chan struct{})}
	for i, n := range c.nodes {
		for j := range 2 {
			nc := connect(t, n.url+","+c.urls(), nats.DontRandomize(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
			client := &counter{nc: nc, key: fmt.Sprintf("count.%d.%d", i, j), failures: map[string]int{}}
			group.clients = append(group.clients, client)
			group.running.Go(func() { client.run(t, group.stop) })
		}
	}
	t.Cleanup(func() { group.end(t) })
	return group
}

// end stops the clients and waits for the requests under way.
func (g *counters) end(t *testing.T) {
	t.Helper()
	select {
	case <-g.stop:
		return
	default:
	}
	close(g.stop)
	g.running.Wait()
	for _, c := range g.clients {
		t.Logf("%s: %d answered, at most %v in between, failures %v", c.key, c.answered, c.longest.Round(time.Millisecond), c.failures)
	}
}

func (c *counter) run(t *testing.T, stop <-chan struct{}) {
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := c.count(); err != nil {
			t.Errorf("%s: %v", c.key, err)
			return
		}
		now := time.Now()
		c.mu.Lock()
		c.answered++
		c.longest = max(c.longest, now.Sub(last))
		c.mu.Unlock()
		last = now
	}
}

// count makes one increment, however often it must ask.
func (c *counter) count() error {
	m := nats.NewMsg("kv.incr." + c.key)
	m.Header.Set(bus.HeaderRequestID, nuid.Next())
	for deadline := time.Now().Add(2 * patience); ; {
		reply, err := c.nc.RequestMsg(m, countTimeout)
		if err == nil {
			err = bus.DecodeError(reply.Header)
		}
		if err == nil {
			return nil
		}
		if !isPassing(err) || time.Now().After(deadline) {
			return err
		}
		c.mu.Lock()
		c.failures[fmt.Sprintf("%.40s", err)]++
		c.mu.Unlock()
		time.Sleep(countPause)
	}
}

// isPassing reports whether an error is one that clients may see while nodes
// come and go.
func isPassing(err error) bool {
	for _, kind := range []error{
		kv.ErrUnavailable, kv.ErrOverloaded, kv.ErrTimeout,
		nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// progress waits until each client has some more answers.
func (g *counters) progress(t *testing.T) {
	t.Helper()
	targets := make([]int, len(g.clients))
	for i, c := range g.clients {
		targets[i] = c.total() + 50
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(2 * patience)
	for i, c := range g.clients {
		for c.total() < targets[i] {
			if time.Now().After(deadline) {
				t.Fatalf("%s has %d answers; want %d", c.key, c.total(), targets[i])
			}
			<-tick.C
		}
	}
}

func (c *counter) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered
}

// verify checks, after the end, that each increment counts once.
func (g *counters) verify(t *testing.T, nc *nats.Conn) {
	t.Helper()
	for _, c := range g.clients {
		if got := persist(t, nc, "kv.get."+c.key, ""); got != strconv.Itoa(c.answered) {
			t.Errorf("%s is %s after %d increments", c.key, got, c.answered)
		}
	}
}
