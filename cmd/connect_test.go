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
	"github.com/nats-io/nkeys"

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

// Anybody can send headers that can't be decoded, as many as they like.
func TestMalformedHeadersAreNotInTheLog(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	var log lockedBuffer
	c := connector{
		settings: config.NATS{URL: config.URLs(s.ClientURL())},
		logger:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	nc, err := c.connect(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Subscribe("kv.set.*", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	sender, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	const headers = "NATS/1.0\r\nKV-TTL\r\n\r\n"
	_, err = fmt.Fprintf(sender, "CONNECT {\"headers\":true}\r\nHPUB kv.set.a %d %[1]d\r\n%s\r\n", len(headers), headers)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the log to tell of it", func() bool { return strings.Contains(log.String(), nats.ErrBadHeaderMsg.Error()) })
	if text := log.String(); strings.Count(text, "level=") != strings.Count(text, "level=DEBUG") {
		t.Errorf("the log is:\n%s", text)
	}
}

// Anybody can ask for answers where a worker may not publish, as often as they like.
func TestDeniedAnswersAreInTheLogOnce(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{Users: []*server.User{{Username: "worker", Password: "x", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}}}})
	var log lockedBuffer
	c := connector{
		settings: config.NATS{URL: config.URLs(s.ClientURL()), User: "worker", Password: "x"},
		logger:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	nc, err := c.connect(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for i := range 5 {
		if err := nc.Publish(fmt.Sprintf("elsewhere.%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the log to tell of all", func() bool { return strings.Contains(log.String(), "elsewhere.4") })
	if text := log.String(); strings.Count(text, "level=ERROR") != 1 || strings.Count(text, "level=DEBUG") != 4 {
		t.Errorf("the log is:\n%s", text)
	}
}

// A server that waits for TLS, and a worker that waits for what the server says first.
func TestServerThatEndsTheConnectionUnheard(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			conn.Close()
		}
	}()
	c := newConnector(config.NATS{URL: config.URLs(fmt.Sprint("nats://", listener.Addr()))})
	nc, err := c.connect(t.Context(), "test")
	if err == nil {
		nc.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "tls_first") {
		t.Errorf("the error is %v", err)
	}
}

func newConnector(settings config.NATS) *connector {
	return &connector{settings: settings, logger: slog.New(slog.DiscardHandler)}
}

// What is wrong with a URL in a context's file is told without it.
func TestNoPartOfAURLIsShown(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"nats://a:hunter2@127.0.0.1:4999:x", "nats://a:hunter/2@127.0.0.1:1", "nats://a:hunter%2@127.0.0.1:1"} {
		file := writeFile(t, fmt.Sprintf("{\"url\": %q}", url))
		for _, settings := range []config.NATS{{Context: file}, {URL: config.URLs(url)}} {
			_, err := newConnector(settings).connect(t.Context(), "test")
			if err == nil || strings.Contains(err.Error(), "hunter") || !strings.Contains(err.Error(), "can't be parsed") {
				t.Errorf("the error is %v", err)
			}
		}
	}
}

// A file that has no credentials is no matter of the server, which may be away.
func TestMalformedCredentials(t *testing.T) {
	t.Parallel()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "-----BEGIN NATS USER JWT-----\n", "\n------END NATS USER JWT------\n\n"
	keys := "-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n"
	for text, well := range map[string]bool{
		"":                           false,
		"not the file":               false,
		begin + "a.b.c" + end:        false,
		keys:                         false,
		begin + "a" + end + keys:     false,
		begin + "a.b.c" + end + keys: true,
	} {
		file := writeFile(t, text)
		_, err := newConnector(config.NATS{URL: "nats://127.0.0.1:1", Creds: file}).credentials()
		if well && err != nil || !well && (err == nil || !strings.Contains(err.Error(), file)) {
			t.Errorf("with the file\n%s\nthe error is %v", text, err)
		}
	}
}
