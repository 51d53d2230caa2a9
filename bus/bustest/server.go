// Package bustest starts NATS servers for tests, and breaks the connections to
// them.
package bustest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// connectTimeout is how long a client and a server wait for each other while they
// connect. Their defaults, two seconds, may be over on a busy machine before
// anybody had a turn.
const connectTimeout = 30 * time.Second

// StartServer starts a NATS server, with opts, on a free port of the loopback
// interface; it ends with the test.
func StartServer(tb testing.TB, opts server.Options) *server.Server {
	tb.Helper()
	opts.Host, opts.Port = "127.0.0.1", server.RANDOM_PORT
	opts.NoSigs, opts.NoLog = true, true
	if opts.AuthTimeout == 0 {
		opts.AuthTimeout = connectTimeout.Seconds()
	}
	s, err := server.NewServer(&opts)
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		tb.Fatal("the NATS server does not start")
	}
	return s
}

// Connect connects to s over TCP, unless opts say otherwise; the connection
// ends with the test.
func Connect(tb testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := Dial(s.ClientURL(), opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// Dial is [nats.Connect] with patience, for connections that the test closes
// itself, or that something else does.
func Dial(url string, opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(url, append([]nats.Option{nats.Timeout(connectTimeout)}, opts...)...)
}
