package service_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/service"
)

func TestStopAnswersWhatWasTaken(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, g := startGated(t, s, service.Options{})
	nc := bustest.Connect(t, s)
	inbox := nc.NewRespInbox()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const requests = 100
	for i := range requests {
		if err := nc.PublishRequest(fmt.Sprint("kv.set.k", i), inbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	<-g.entered // the requests have reached the service
	var stopped sync.WaitGroup
	stopped.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := svc.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	close(g.gate)
	stopped.Wait()
	for i := range requests {
		m, err := answers.NextMsg(patience)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if got := string(m.Data); got != strconv.Itoa(i+1) {
			t.Fatalf("answer %d is %q: not in order", i, got)
		}
	}
	if _, err := nc.Request("kv.get.k1", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestStopGivesUpInTime(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, g := startGated(t, s, service.Options{})
	defer close(g.gate)
	nc := bustest.Connect(t, s)
	if err := nc.Publish("kv.set.k", nil); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := svc.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stop that can't end returns %v", err)
	}
}

// A service that has no time to stop and nothing to do has nothing to complain
// about.
func TestStopAtOnce(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 {
		svc, g := startGated(t, s, service.Options{})
		close(g.gate)
		expect(t, bustest.Connect(t, s), "kv.set.k", "v", "1")
		if err := svc.Stop(ended); err != nil {
			t.Fatal(err)
		}
	}
}

// lostPatience is how long a stop without a server may take. A round trip would fail
// after five seconds, a drain after ten.
const lostPatience = 4500 * time.Millisecond

func TestStopWhileTheServerIsAway(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	nc, lose := throughProxy(t, s)
	svc, g := startGatedOn(t, nc, service.Options{})
	close(g.gate)
	expect(t, bustest.Connect(t, s), "kv.set.color", "blue", "1")
	lose()
	begun := time.Now()
	if err := svc.Stop(t.Context()); err != nil {
		t.Errorf("a stop without anything under way: %v", err)
	}
	if took := time.Since(begun); took > lostPatience {
		t.Errorf("it took %v", took)
	}
}

// A request that was taken is carried out though its answer can't be sent.
func TestStopAfterTheServerIsLost(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	nc, lose := throughProxy(t, s)
	svc, g := startGatedOn(t, nc, service.Options{})
	if err := bustest.Connect(t, s).Publish("kv.set.color", []byte("blue")); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	stopped := make(chan error, 1)
	go func() { stopped <- svc.Stop(context.Background()) }()
	lose()
	select {
	case err := <-stopped:
		t.Fatalf("the stop did not wait for what is under way: %v", err)
	case <-time.After(10 * time.Millisecond): // long enough to fail now and then
	}
	close(g.gate)
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(lostPatience):
		t.Error("the stop waits for the server")
	}
	if got, err := kv.Of(g.Store).Get(t.Context(), "color"); err != nil || got.Value != "blue" {
		t.Errorf("the value is %q, %v", got.Value, err)
	}
}

// A stop takes the time that it has until the server has the answers.
func TestStopWaitsForASlowServer(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	nc, valve := throughValve(t, s)
	svc, g := startGatedOn(t, nc, service.Options{})
	client := bustest.Connect(t, s)
	inbox := client.NewInbox()
	answers, err := client.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.PublishRequest("kv.set.color", inbox, nil); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	stopped := make(chan error, 1)
	go func() { stopped <- svc.Stop(context.Background()) }()
	awaitNobody(t, client, "kv.info")
	if err := nc.Flush(); err != nil { // it drains nothing more
		t.Fatal(err)
	}
	valve.close(1 << 20)
	close(g.gate)
	select {
	case err := <-stopped:
		t.Fatalf("it ends before the server has the answer: %v", err)
	case <-time.After(6 * time.Second): // more than other round trips may take
	}
	valve.open()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it does not end when the server has the answer")
	}
	if _, err := answers.NextMsg(patience); err != nil {
		t.Error(err)
	}
}

// A stop ends in time also while the server takes nothing, which holds up all who do
// anything with the connection.
func TestStopWhileTheServerTakesNothing(t *testing.T) {
	for _, answered := range []bool{true, false} {
		s := bustest.StartServer(t, server.Options{})
		nc, valve := throughValve(t, s)
		svc, g := startGatedOn(t, nc, service.Options{})
		client := bustest.Connect(t, s)
		if err := client.PublishRequest("kv.set.color", client.NewInbox(), nil); err != nil {
			t.Fatal(err)
		}
		<-g.entered
		valve.close(0)
		if answered {
			close(g.gate)
		} else if err := nc.Publish("nobody", nil); err != nil {
			t.Fatal(err)
		}
		<-valve.stuck
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		stopped := make(chan error, 1)
		go func() { stopped <- svc.Stop(ctx) }()
		select {
		case err := <-stopped:
			if !answered && !errors.Is(err, context.DeadlineExceeded) || answered && err != nil {
				t.Errorf("with an answer under way (%v) it returns %v", answered, err)
			}
		case <-time.After(lostPatience):
			t.Fatal("it waits for the server")
		}
		valve.open()
		if !answered {
			close(g.gate)
		}
	}
}

// awaitNobody makes requests until nobody takes them.
func awaitNobody(t *testing.T, nc *nats.Conn, subject string) {
	t.Helper()
	var err error
	for err == nil {
		_, err = nc.Request(subject, nil, patience)
	}
	if !errors.Is(err, nats.ErrNoResponders) {
		t.Fatal(err)
	}
}

// A stop that may not wait fails only if there was something to wait for.
func TestStopWithoutWait(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	idle, _ := startGated(t, s, service.Options{})
	if err := idle.Stop(ended); err != nil {
		t.Errorf("with nothing to answer: %v", err)
	}

	busy, g := startGated(t, s, service.Options{})
	nc := bustest.Connect(t, s)
	if err := nc.PublishRequest("kv.set.k", nc.NewRespInbox(), nil); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	if err := busy.Stop(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("with a request under way: %v", err)
	}
	close(g.gate)
}
