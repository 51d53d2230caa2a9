package bustest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Free is the pace of a way that is as quick as it can be.
const Free = -1

// A Proxy forwards TCP connections to a server that can be exchanged.
type Proxy struct {
	listener net.Listener
	ended    chan struct{}

	toServer, toClient way

	mu     sync.Mutex
	target string
	conns  []net.Conn
}

// StartProxy starts a proxy on a free port of the loopback interface; it ends
// with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, ended: make(chan struct{}), target: target}
	p.toServer.set(Free)
	p.toClient.set(Free)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			server, err := net.Dial("tcp", p.target)
			if err != nil {
				client.Close()
				p.mu.Unlock()
				continue
			}
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			serving.Go(func() {
				_, _ = io.Copy(paced{client, &p.toClient, p.ended}, server) // ends when either side is closed
				client.Close()
			})
			serving.Go(func() {
				_, _ = io.Copy(paced{server, &p.toServer, p.ended}, client)
				server.Close()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		close(p.ended)
		p.Cut()
		serving.Wait()
	})
	return p
}

// URL returns the URL to connect to.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Redirect cuts all connections; new ones go to target.
func (p *Proxy) Redirect(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.Cut()
}

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
	p.conns = nil
}

// Pace lets so many bytes a second go to the server from now on, on each connection:
// none if it is 0, and all if it is [Free].
func (p *Proxy) Pace(pace int) { p.toServer.set(pace) }

// PaceBack does the same for what comes from the server.
func (p *Proxy) PaceBack(pace int) { p.toClient.set(pace) }

// CameBack returns how many bytes came from the server.
func (p *Proxy) CameBack() int64 { return p.toClient.passed.Load() }

// A way is one direction of all connections.
type way struct {
	passed atomic.Int64 // bytes

	mu      sync.Mutex
	pace    int           // bytes a second
	changed chan struct{} // closed when the pace is another one
}

func (w *way) set(pace int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pace = pace
	if w.changed != nil {
		close(w.changed)
	}
	w.changed = make(chan struct{})
}

// paced writes at the pace of a way.
type paced struct {
	to    io.Writer
	way   *way
	ended <-chan struct{}
}

func (p paced) Write(b []byte) (int, error) {
	for {
		p.way.mu.Lock()
		pace, changed := p.way.pace, p.way.changed
		p.way.mu.Unlock()
		var passed <-chan time.Time
		switch {
		case pace == Free:
			return p.write(b)
		case pace > 0:
			passed = time.After(time.Duration(len(b)) * time.Second / time.Duration(pace))
		}
		select {
		case <-passed:
			return p.write(b)
		case <-changed:
		case <-p.ended:
			return 0, net.ErrClosed
		}
	}
}

func (p paced) write(b []byte) (int, error) {
	n, err := p.to.Write(b)
	p.way.passed.Add(int64(n))
	return n, err
}
