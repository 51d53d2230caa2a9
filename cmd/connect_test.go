package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/config"
)

// silentServer takes connections and says nothing. The channel tells of each.
func silentServer(t *testing.T) (url string, connected <-chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	accepted := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			accepted <- struct{}{}
		}
	}()
	return fmt.Sprint("nats://", listener.Addr()), accepted
}

// noSuchHost is a name that no resolver has to be asked for: a label of it is too
// long.
var noSuchHost = strings.Repeat("a", 64) + ".invalid"

func TestWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{Authorization: "secret"})
	silent, _ := silentServer(t)
	for name, test := range map[string]struct {
		url  string
		opts []nats.Option
		want bool
	}{
		"a name that does not exist yet": {"nats://" + noSuchHost + ":4222", nil, true},
		"nobody there":                   {"nats://127.0.0.1:1", nil, true},
		"no way there":                   {"nats://127.0.0.1:1", []nats.Option{nats.Dialer(&net.Dialer{Deadline: time.Unix(1, 0)})}, true},
		"a server that says nothing":     {silent, []nats.Option{nats.Timeout(10 * time.Millisecond)}, true},
		"no such port":                   {"nats://127.0.0.1:99999", nil, false},
		"no URL":                         {"nats://[", nil, false},
		"not authorized":                 {s.ClientURL(), nil, false},
		"a certificate that is not there": {s.ClientURL(), []nats.Option{
			nats.RootCAs("missing.pem"),
		}, false},
		"all well": {s.ClientURL(), []nats.Option{nats.Token("secret")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := nats.Connect(test.url, test.opts...)
			if err == nil {
				nc.Close()
			}
			if got := unreachable(err); got != test.want {
				t.Errorf("waiting for %v: %v; want %v", err, got, test.want)
			}
		})
	}
}

// Who is told to stop does not wait for an attempt to end.
func TestConnectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	url, connected := silentServer(t)
	var log lockedBuffer
	c := connector{settings: config.NATS{URL: config.URLs(url)}, logger: slog.New(slog.NewTextHandler(&log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := c.connect(ctx, "test")
		ended <- err
	}()
	<-connected
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the end of the context is told as %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on after the end of its context")
	}
	if strings.Contains(log.String(), "waiting for NATS") {
		t.Error("the attempt is waited for")
	}
}
