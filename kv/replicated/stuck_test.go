package replicated_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// A valve is a dialer to a server. Its connections take nothing while it is locked, as
// where the way there is cut and the system's buffer is full.
type valve struct {
	sync.RWMutex
	address string
}

type valveConn struct {
	net.Conn
	valve *valve
}

func (v *valve) Dial(network, _ string) (net.Conn, error) {
	conn, err := net.Dial(network, v.address)
	return valveConn{conn, v}, err
}

func (c valveConn) Write(data []byte) (int, error) {
	c.valve.RLock()
	defer c.valve.RUnlock()
	return c.Conn.Write(data)
}

// While the connection takes nothing, all that is asked is answered in time.
func TestConnectionTakesNothing(t *testing.T) {
	s := startServer(t)
	way := &valve{address: s.Addr().String()}
	nc := bustest.Connect(t, s, nats.SetCustomDialer(way))
	store, err := replicated.Open(bounded(t), nc, replicated.Options{Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	h := kv.Of(store)

	_, err = h.Increment(bounded(t), "n", 0)
	for errors.Is(err, kv.ErrTimeout) { // as it may be on a busy machine
		_, err = h.Increment(bounded(t), "n", 0)
	}
	if err != nil {
		t.Fatal(err)
	}

	most := int64(1) // what timed out may have counted
	way.Lock()
	release := sync.OnceFunc(way.Unlock)
	defer release()
	asked := make(chan error, 1)
	inTime := func(what string, ask func(context.Context) error) error {
		t.Helper()
		go func() { asked <- ask(bounded(t)) }()
		select {
		case err := <-asked:
			return err
		case <-time.After(patience / 2):
			release()
			t.Fatalf("%s is not answered", what)
			return nil
		}
	}
	for i := range 2 { // the second one does not even come to the connection
		switch err := inTime("an increment", func(ctx context.Context) error { _, err := h.Increment(ctx, "n", 1); return err }); {
		case errors.Is(err, kv.ErrTimeout):
			most++
		case !errors.Is(err, kv.ErrUnavailable):
			t.Errorf("increment %d ends with %v", i, err)
		}
		err := inTime("a read", func(ctx context.Context) error { _, err := h.Get(ctx, "n"); return err })
		if !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("read %d ends with %v", i, err)
		}
	}
	release()
	for ctx := bounded(t); ; {
		n, err := h.Increment(ctx, "n", 1)
		switch {
		case err == nil && (n < 1 || n > most):
			t.Errorf("the next increment makes %d; want 1 to %d", n, most)
		case errors.Is(err, kv.ErrTimeout):
			most++
			continue
		case errors.Is(err, kv.ErrUnavailable) && ctx.Err() == nil:
			continue
		case err != nil:
			t.Error(fmt.Errorf("the next increment: %w", err))
		}
		return
	}
}
