package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"kvbus/bus/bustest"
)

// A server is a nats-server in a process of its own. It can be killed and
// started again on the same port.
type server struct {
	*process
	address string // host:port
	url     string
	config  string // file
	monitor string // URL, since it was started last
}

// newServer prepares a nats-server with a configuration, to which the address
// is added.
func newServer(t *testing.T, config string) *server {
	t.Helper()
	address := bustest.FreeAddress(t)
	text := fmt.Sprintf("listen: %q\nhttp: \"127.0.0.1:-1\"\n%s\n", address, config)
	return &server{
		address: address,
		url:     "nats://" + address,
		config:  writeFile(t, "nats-server.conf", text),
	}
}

// startServer runs a nats-server.
func startServer(t *testing.T, config string) *server {
	t.Helper()
	s := newServer(t, config)
	s.start(t)
	return s
}

// start runs the server and waits until it is ready.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.process = launch(t, nil, "nats-server", "--config", s.config)
	if !s.stderr.await(s.ended, containing("Server is ready")) {
		t.Fatalf("nats-server is not ready:\n%s", s.stderr.String())
	}
	s.monitor = monitorURL(t, s.stderr.String())
}

// monitorURL finds in a nats-server's log where its monitoring is.
func monitorURL(t *testing.T, log string) string {
	t.Helper()
	found := regexp.MustCompile(`Starting http monitor on ([0-9.:]+)`).FindStringSubmatch(log)
	if found == nil {
		t.Fatalf("nats-server does not say where its monitoring is:\n%s", log)
	}
	return "http://" + found[1]
}

// awaitSubscriber waits until a server has a subscriber to events that was not
// there before, or until ended is closed.
func awaitSubscriber(t *testing.T, monitor string, before map[uint64]bool, ended <-chan struct{}) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for id := range subscribers(t, monitor) {
			if !before[id] {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ended:
			return
		case <-deadline:
			t.Fatal("nobody new subscribes")
		}
	}
}

// subscribers returns the ids of a server's clients that have subscribed to
// events, which the worker itself does not.
func subscribers(t *testing.T, monitor string) map[uint64]bool {
	t.Helper()
	client := http.Client{Timeout: patience}
	response, err := client.Get(monitor + "/connz?subs=1&limit=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var list struct {
		Connections []struct {
			ID            uint64   `json:"cid"`
			Subscriptions []string `json:"subscriptions_list"`
		} `json:"connections"`
	}
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	found := map[uint64]bool{}
	for _, c := range list.Connections {
		if slices.ContainsFunc(c.Subscriptions, func(subject string) bool { return strings.Contains(subject, ".events.") }) {
			found[c.ID] = true
		}
	}
	return found
}
