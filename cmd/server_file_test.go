package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/config"
)

// What a nats-server.conf says holds, but for what the operator asked for.
func TestServerByFile(t *testing.T) {
	t.Parallel()
	const file = "server_name: n1\nhost: 127.0.0.2\nport: -1\n"
	for name, test := range map[string]struct {
		file       string
		settings   config.Config
		name, host string
	}{
		"by the file":         {file, config.Config{}, "n1", "127.0.0.2"},
		"asked for":           {file, config.Config{Name: "w1", NATS: config.NATS{Listen: "127.0.0.1:0"}}, "w1", "127.0.0.1"},
		"open in the file":    {"listen: \"127.0.0.2:-1\"", config.Config{}, hostName(), "127.0.0.2"},
		"every interface not": {"port: -1", config.Config{NATS: config.NATS{Listen: "127.0.0.1:0"}}, hostName(), "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config.Default()
			cfg.Name, cfg.NATS = test.settings.Name, test.settings.NATS
			cfg.NATS.Config = writeFile(t, test.file)
			w := &worker{cfg: cfg, logger: slog.New(slog.DiscardHandler)}
			var err error
			if w.server, err = w.startServer(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := shutdown(context.WithoutCancel(t.Context()), w.server); err != nil {
					t.Error(err)
				}
			})
			if w.server.Name() != test.name || w.name() != test.name {
				t.Errorf("the server is %q and the worker %q; want %q", w.server.Name(), w.name(), test.name)
			}
			if host, _, err := net.SplitHostPort(w.server.Addr().String()); err != nil || host != test.host {
				t.Errorf("it listens on %v, %v; want %s", w.server.Addr(), err, test.host)
			}
		})
	}
}

// A server whose messages have no room for a value is told of, and one that has some is
// served.
func TestLeastMaxPayload(t *testing.T) {
	t.Parallel()
	configured := func(maxPayload int) config.Config {
		cfg := config.Default()
		cfg.NATS.Config = writeFile(t, fmt.Sprintf("listen: \"127.0.0.1:-1\", max_payload: %d", maxPayload))
		return cfg
	}
	external := config.Default()
	external.NATS.URL = config.URLs(bustest.StartServer(t, server.Options{MaxPayload: 100}).ClientURL())
	for _, cfg := range []config.Config{configured(100), configured(1000), configured(4096), external} {
		err := run(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "max_payload") || !strings.Contains(err.Error(), "at least 4097") {
			t.Errorf("the worker ends with %v", err)
		}
	}
	w, _, _ := startWorkerBy(t, configured(4097))
	reply, err := w.requests.Request("kv.set.color", []byte("b"), patience)
	if err == nil {
		err = bus.DecodeError(reply.Header)
	}
	if err != nil {
		t.Errorf("a value of one byte: %v", err)
	}
}
