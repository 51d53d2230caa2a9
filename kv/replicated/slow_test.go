package replicated_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// A worker on a slow way to the log, where each record takes longer than the worker
// waits before it asks again, does not fill that way with its questions' answers.
func TestSlowWay(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{})
	const (
		records = 8
		size    = records << 20
	)
	for i := range records {
		if _, err := kv.Of(store).Set(bounded(t), fmt.Sprint("k", i), strings.Repeat("v", 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	proxy := bustest.StartProxy(t, s.Addr().String())
	proxy.PaceBack(4 << 20)
	nc, err := bustest.Dial(proxy.URL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	slow, err := replicated.Open(bounded(t), nc, replicated.Options{})
	if err != nil {
		t.Fatalf("it can't be opened, after %d MB for %d: %v", proxy.CameBack()>>20, size>>20, err)
	}
	defer slow.Close()
	if got := proxy.CameBack(); got > 2*size {
		t.Errorf("%d MB come back to get %d", got>>20, size>>20)
	}
}
