package embedded

import (
	"bytes"
	"fmt"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

var _ nats.InProcessConnProvider = (*Server)(nil)

// Connect connects to the server within the process. The options are those of
// nats.go, credentials among them; the address is not theirs to choose.
//
// Credentials that are missing or wrong are [nats.ErrAuthorization], at once.
// The caller closes the connection, before the server's shutdown.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	// The URL is a label only, but with the scheme tls it would bring TLS
	// where the caller did not ask for it and nobody needs it.
	label := "nats://" + s.hostPort()
	all := append(append([]nats.Option(nil), opts...), nats.InProcessServer(s))
	nc, err := nats.Connect(label, all...)
	if err != nil {
		return nil, fmt.Errorf("embedded: connect in process to nats-server %s: %w", s.Name(), err)
	}
	return nc, nil
}

// Interest returns how many subscriptions, on all servers of the cluster, match what
// nc, a connection to this server, publishes on a subject. It is 0 once nc is closed.
func (s *Server) Interest(nc *nats.Conn, subject string) int {
	id, err := nc.GetClientID()
	if err != nil {
		return 0
	}
	client := s.ns.GetClient(id)
	if client == nil {
		return 0
	}
	account := client.Account()
	if account == nil {
		return 0
	}
	return account.Interest(subject)
}

// InProcessConn makes a connection to the server for [nats.InProcessServer];
// [Server.Connect] is the easier way. It fails once the server is shut down.
func (s *Server) InProcessConn() (net.Conn, error) {
	conn, err := s.ns.InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("embedded: nats-server %s takes no connections: %w", s.Name(), err)
	}
	return &inProcessConn{Conn: conn}, nil
}

// maxAhead is how much of what the client writes first does not wait, in bytes.
// It is more than a handshake has, with TLS and with its end where it fails.
const maxAhead = 64 << 10

// inProcessConn is the client's end of a pipe. In a pipe a write lasts until
// the other end reads it. nats.go writes CONNECT and PING before it reads the
// answer; a server that refuses the CONNECT writes its error and reads no more.
// So both would write and neither read, until the server gives up after ten
// seconds, and the client would not get the error.
//
// Therefore the first writes do not wait, as if there were a socket's buffer.
// From then on it is the plain pipe, which is faster.
type inProcessConn struct {
	net.Conn

	mu    sync.Mutex
	ahead int           // bytes written that did not wait, at most maxAhead
	over  bool          // every write waits from now on
	last  chan struct{} // closed when the newest of them is through; nil before the first
}

func (c *inProcessConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	before := c.last
	c.over = c.over || c.ahead+len(p) > maxAhead
	if c.over {
		c.mu.Unlock()
		if before != nil {
			<-before
		}
		return c.Conn.Write(p)
	}
	last := make(chan struct{})
	c.last = last
	c.ahead += len(p)
	c.mu.Unlock()

	own := bytes.Clone(p) // A writer may not keep what it is given.
	go func() {
		defer close(last)
		if before != nil {
			<-before
		}
		if _, err := c.Conn.Write(own); err != nil {
			// A part may be written, so nothing may follow. The next read
			// or write finds the pipe closed.
			c.Conn.Close()
		}
	}()
	return len(p), nil
}

// Close waits for the writes under way, which it makes fail.
func (c *inProcessConn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if last != nil {
		<-last
	}
	return err
}
