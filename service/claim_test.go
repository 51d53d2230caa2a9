package service_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv/memory"
	"kvbus/service"
)

// However many workers with stores of their own start at the same moment, one
// stays.
func TestOneExclusiveWorkerStays(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	const workers = 5
	var (
		start   sync.WaitGroup
		ended   sync.WaitGroup
		mu      sync.Mutex
		serving int
	)
	start.Add(1)
	for range workers {
		nc := bustest.Connect(t, s, nats.InProcessServer(s))
		store := memory.New(memory.Options{})
		t.Cleanup(func() { store.Close() })
		ended.Go(func() {
			start.Wait()
			_, err := service.Start(t.Context(), nc, store, service.Options{ClaimWait: 500 * time.Millisecond})
			if err == nil {
				mu.Lock()
				serving++
				mu.Unlock()
			} else if !errors.Is(err, service.ErrPrefixTaken) {
				t.Error(err)
			}
		})
	}
	start.Done()
	ended.Wait()
	if serving != 1 {
		t.Errorf("%d workers serve the same prefix", serving)
	}
}

func TestLaterExclusiveWorkerIsRefused(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	lost := make(chan error, 1)
	startService(t, s, memory.Options{}, service.Options{OnLost: func(err error) { lost <- err }})
	store := memory.New(memory.Options{})
	defer store.Close()
	nc := bustest.Connect(t, s)
	_, err := service.Start(t.Context(), nc, store, service.Options{ClaimWait: 500 * time.Millisecond})
	if !errors.Is(err, service.ErrPrefixTaken) {
		t.Fatalf("the second worker: %v", err)
	}
	subjects, err := bus.NewSubjects("other.kv")
	if err != nil {
		t.Fatal(err)
	}
	other, err := service.Start(t.Context(), nc, store, service.Options{Subjects: subjects, ClaimWait: 500 * time.Millisecond})
	if err != nil {
		t.Fatalf("a worker on another prefix: %v", err)
	}
	expect(t, bustest.Connect(t, s), "other.kv.set.k", "x", "1")
	if err := other.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-lost:
		t.Errorf("the first worker lost its claim to a later one: %v", err)
	default:
	}
}

// Two workers that could not hear each other when they started find out when
// they can: the earlier one stays.
func TestReclaim(t *testing.T) {
	s1, s2 := bustest.StartServer(t, server.Options{}), bustest.StartServer(t, server.Options{})
	lost := make(chan string, 2)
	var services []*service.Service
	for i, s := range []*server.Server{s1, s2} {
		name := fmt.Sprint("worker ", i+1)
		// The proxy stands for a name that leads to one server now and to
		// another later.
		store := memory.New(memory.Options{})
		defer store.Close()
		proxy := bustest.StartProxy(t, s.Addr().String())
		nc, err := nats.Connect(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		svc, err := service.Start(t.Context(), nc, store, service.Options{
			ClaimWait: 500 * time.Millisecond, OnLost: func(error) { lost <- name },
		})
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, svc)
		if i == 1 {
			back := nc.StatusChanged(nats.CONNECTED)
			proxy.Redirect(s1.Addr().String())
			<-back
		}
	}
	if err := services[1].Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if name := <-lost; name != "worker 2" {
		t.Errorf("%s lost its claim", name)
	}
}
