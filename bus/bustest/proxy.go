package bustest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Free is the pace of a [Proxy] that is as quick as it can be.
const Free = -1

// A Proxy forwards TCP connections to a server that can be exchanged.
type Proxy struct {
	listener net.Listener
	ended    chan struct{}

	mu      sync.Mutex
	target  string
	conns   []net.Conn
	pace    int           // bytes a second
	changed chan struct{} // closed when the pace is another one
}

// StartProxy starts a proxy on a free port of the loopback interface; it ends
// with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, ended: make(chan struct{}), target: target, pace: Free, changed: make(chan struct{})}
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
				_, _ = io.Copy(client, server) // ends when either side is closed
				client.Close()
			})
			serving.Go(func() {
				_, _ = io.Copy(paced{p, server}, client)
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
func (p *Proxy) Pace(pace int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pace = pace
	close(p.changed)
	p.changed = make(chan struct{})
}

// paced writes at the pace of a proxy.
type paced struct {
	proxy *Proxy
	to    io.Writer
}

func (w paced) Write(b []byte) (int, error) {
	for {
		w.proxy.mu.Lock()
		pace, changed := w.proxy.pace, w.proxy.changed
		w.proxy.mu.Unlock()
		var passed <-chan time.Time
		switch {
		case pace == Free:
			return w.to.Write(b)
		case pace > 0:
			passed = time.After(time.Duration(len(b)) * time.Second / time.Duration(pace))
		}
		select {
		case <-passed:
			return w.to.Write(b)
		case <-changed:
		case <-w.proxy.ended:
			return 0, net.ErrClosed
		}
	}
}
