package bustest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A Proxy forwards TCP connections to a server that can be exchanged.
type Proxy struct {
	listener net.Listener

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
	p := &Proxy{listener: listener, target: target}
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
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				serving.Go(func() {
					_, _ = io.Copy(pair[0], pair[1]) // ends when either side is closed
					pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		listener.Close()
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
