package replicated_test

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// A hub and a leaf node have a JetStream each. A second log of a prefix is refused: it
// is not made, so the first one goes on, and one that is there from a time when the two
// were apart is not served.
func TestTwoLogsOnOneNATS(t *testing.T) {
	t.Parallel()
	address, err := url.Parse("nats://" + bustest.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(address.Port())
	if err != nil {
		t.Fatal(err)
	}
	hub := bustest.StartServer(t, server.Options{
		ServerName: "hub", JetStream: true, StoreDir: t.TempDir(), JetStreamDomain: "hub",
		LeafNode: server.LeafNodeOpts{Host: address.Hostname(), Port: port},
	})
	apart := server.Options{ServerName: "leaf", JetStream: true, StoreDir: t.TempDir(), JetStreamDomain: "leaf"}
	joined := apart
	joined.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{address}}}
	first := open(t, hub, replicated.Options{})

	refused := func() *server.Server {
		leaf := bustest.StartServer(t, joined)
		for ctx := bounded(t); leaf.GlobalAccount().Interest("$KVBUS.kv.worker") == 0; { // of the hub
			if ctx.Err() != nil {
				t.Fatal("the leaf node does not hear of the hub")
			}
			time.Sleep(time.Millisecond)
		}
		store, err := replicated.Open(bounded(t), bustest.Connect(t, leaf), replicated.Options{})
		if err == nil {
			store.Close()
		}
		if !errors.Is(err, kv.ErrInvalidArgument) || !strings.Contains(err.Error(), "two logs") {
			t.Errorf("a second log: %v", err)
		}
		return leaf
	}
	leaf := refused()
	js, err := jetstream.New(bustest.Connect(t, leaf))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Stream(bounded(t), "KVBUS_kv"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a log was made that is not wanted: %v", err)
	}
	if _, err := kv.Of(first).Set(bounded(t), "k", "v"); err != nil {
		t.Errorf("the first one: %v", err)
	}
	leaf.Shutdown()
	leaf.WaitForShutdown()

	alone := bustest.StartServer(t, apart)
	closeStore(t, open(t, alone, replicated.Options{}))
	alone.Shutdown()
	alone.WaitForShutdown()
	refused()
}
