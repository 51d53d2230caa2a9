package service_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

const patience = 30 * time.Second

// startService serves a new memory store on a connection of its own.
func startService(tb testing.TB, s *server.Server, storeOpts memory.Options, opts service.Options) (*service.Service, *memory.Store) {
	tb.Helper()
	store := memory.New(storeOpts)
	tb.Cleanup(func() { store.Close() })
	if opts.ClaimWait == 0 {
		opts.ClaimWait = time.Millisecond
	}
	nc := bustest.Connect(tb, s, nats.InProcessServer(s))
	svc, err := service.Start(tb.Context(), nc, store, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return svc, store
}

func request(t *testing.T, nc *nats.Conn, subject, body string, headers ...string) *nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	answer, err := nc.RequestMsg(m, patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return answer
}

// expect makes a request and compares the body of the answer, or "!" and the
// name of the error.
func expect(t *testing.T, nc *nats.Conn, subject, body, want string, headers ...string) *nats.Msg {
	t.Helper()
	m := request(t, nc, subject, body, headers...)
	got := string(m.Data)
	if name := m.Header.Get(bus.HeaderError); name != "" {
		got = "!" + name
	}
	if got != want {
		t.Errorf("%s %q %q answers %q, want %q", subject, body, headers, got, want)
	}
	return m
}

// stream makes a request that is answered by many messages, up to the last.
func stream(t *testing.T, nc *nats.Conn, subject string, headers ...string) []*nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Reply = nc.NewRespInbox()
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	sub, err := nc.SubscribeSync(m.Reply)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	var answers []*nats.Msg
	for {
		answer, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("%s after %d answers: %v", subject, len(answers), err)
		}
		answers = append(answers, answer)
		if answer.Header.Get(bus.HeaderEnd) != "" || answer.Header.Get(bus.HeaderError) != "" {
			return answers
		}
	}
}

// rawPublish writes protocol lines as they are.
func rawPublish(t *testing.T, s *server.Server, lines string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\n%sPING\r\n", lines); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for answers := bufio.NewScanner(conn); ; {
		if !answers.Scan() {
			t.Fatalf("the server does not answer: %v", answers.Err())
		}
		if answers.Text() == "PONG" {
			return
		}
	}
}

// A gated store holds back commands until the gate is opened; reads of the key
// "panic" panic.
type gated struct {
	kv.Store
	entered chan string
	gate    chan struct{}
}

func (g *gated) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	g.entered <- cmd.Key
	<-g.gate
	return g.Store.Do(ctx, cmd)
}

func (g *gated) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	if key == "panic" {
		panic("as the test wants")
	}
	return g.Store.Get(ctx, key, opts)
}

func startGated(t *testing.T, s *server.Server, opts service.Options) (*service.Service, *gated) {
	t.Helper()
	return startGatedOn(t, bustest.Connect(t, s, nats.InProcessServer(s)), opts)
}

func startGatedOn(t *testing.T, nc *nats.Conn, opts service.Options) (*service.Service, *gated) {
	t.Helper()
	g := &gated{Store: memory.New(memory.Options{}), entered: make(chan string, 1000), gate: make(chan struct{})}
	t.Cleanup(func() { g.Close() })
	opts.ClaimWait = time.Millisecond
	svc, err := service.Start(t.Context(), nc, g, opts)
	if err != nil {
		t.Fatal(err)
	}
	return svc, g
}

func endpoint(t *testing.T, stats micro.Stats, name string) *micro.EndpointStats {
	t.Helper()
	for _, e := range stats.Endpoints {
		if e.Name == name {
			return e
		}
	}
	t.Fatalf("no endpoint %s", name)
	return nil
}

// throughProxy connects by way of a proxy, and returns what leaves the
// connection without a server.
func throughProxy(t *testing.T, s *server.Server) (nc *nats.Conn, lose func()) {
	t.Helper()
	proxy := bustest.StartProxy(t, s.Addr().String())
	nc, err := bustest.Dial(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, func() {
		lost := nc.StatusChanged(nats.RECONNECTING)
		proxy.Redirect("127.0.0.1:1") // nobody is there
		<-lost
	}
}

// A valve is between a connection and its server, which gets nothing while the valve
// is shut. So many bytes may wait then; who has more waits as well.
type valve struct {
	net.Conn
	stuck chan struct{} // gets something when somebody waits

	mu      sync.Mutex
	changed sync.Cond
	shut    bool
	room    int
	waiting []byte
}

// throughValve connects by way of a valve that is open, and is so again when the test
// ends.
func throughValve(t *testing.T, s *server.Server) (*nats.Conn, *valve) {
	t.Helper()
	v := &valve{stuck: make(chan struct{}, 1)}
	v.changed.L = &v.mu
	nc := bustest.Connect(t, s, nats.SetCustomDialer(v))
	t.Cleanup(v.open)
	return nc, v
}

// Dial makes a valve the dialer of one connection.
func (v *valve) Dial(network, address string) (conn net.Conn, err error) {
	v.Conn, err = net.Dial(network, address)
	return v, err
}

func (v *valve) close(room int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut, v.room = true, room
}

func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, _ = v.Conn.Write(v.waiting) // fails if the connection is closed, and then for its owner too
	v.shut, v.waiting = false, nil
	v.changed.Broadcast()
}

func (v *valve) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.shut && len(v.waiting)+len(b) > v.room {
		select {
		case v.stuck <- struct{}{}:
		default:
		}
		v.changed.Wait()
	}
	if v.shut {
		v.waiting = append(v.waiting, b...)
		return len(b), nil
	}
	return v.Conn.Write(b)
}
