package e2e

import (
	"strings"
	"testing"
)

func TestDiscovery(t *testing.T) {
	t.Parallel()
	c := terminal{t, serve(t, "--name", "alpha").url}
	c.request("kv.set.color", "blue")
	c.full("kv.get.none", "")

	list := c.nats("micro", "ls")
	expectParts(t, list, "kvbus", "A key-value service on the bus")

	info := c.nats("micro", "info", "kvbus")
	for _, want := range []string{"Service: kvbus", "prefix: kv", "store: memory", "worker: alpha"} {
		expectParts(t, info, want)
	}
	for _, op := range []string{"get", "set", "cas", "incr", "delete", "exists", "ttl", "touch", "keys", "scan", "replay", "clear"} {
		expectParts(t, info, "Name: "+op+"\n", "Subject: kv."+op+".>\n")
	}
	expectParts(t, info, "Subject: kv.info\n")

	requests, errors := statistics(t, c.nats("micro", "stats", "kvbus"), "set")
	if requests != "1" || errors != "0" {
		t.Errorf("set has %s requests and %s errors; want 1 and 0", requests, errors)
	}
	requests, errors = statistics(t, c.nats("micro", "stats", "kvbus"), "get")
	if requests != "1" || errors != "1" {
		t.Errorf("get has %s requests and %s errors; want 1 and 1", requests, errors)
	}

	// It pings until it is told to stop.
	ping, output := c.start("micro", "ping", "kvbus")
	if !output.await(ping.ended, containing("kvbus", "rtt=")) {
		t.Errorf("nats micro ping gets no answer:\n%s", output.String())
	}
}

// statistics finds the row of an endpoint in what nats micro stats prints.
func statistics(t *testing.T, table, endpoint string) (requests, errors string) {
	t.Helper()
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "│")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) > 5 && cells[2] == endpoint {
			return cells[3], cells[5]
		}
	}
	t.Fatalf("there is no endpoint %s in:\n%s", endpoint, table)
	return "", ""
}
