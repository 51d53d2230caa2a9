package service_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv/memory"
	"kvbus/service"
)

// rawPublish writes protocol lines as they are.
func rawPublish(t *testing.T, s *server.Server, lines string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\n%s", lines); err != nil {
		t.Fatal(err)
	}
}

func TestDiscovery(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, _ := startService(t, s, memory.Options{}, service.Options{Version: "1.2.3", WorkerName: "w1"})
	nc := bustest.Connect(t, s)

	for _, suffix := range []string{"", "." + service.Name, "." + service.Name + "." + svc.ID()} {
		var ping micro.Ping
		if err := json.Unmarshal(request(t, nc, "$SRV.PING"+suffix, "").Data, &ping); err != nil {
			t.Fatal(err)
		}
		if ping.Name != service.Name || ping.ID != svc.ID() || ping.Version != "1.2.3" || ping.Type != micro.PingResponseType || ping.Metadata["prefix"] != "kv" || ping.Metadata["store"] != "memory" {
			t.Errorf("the ping of %q answers %+v", suffix, ping)
		}
	}

	var info micro.Info
	if err := json.Unmarshal(request(t, nc, "$SRV.INFO.kvbus", "").Data, &info); err != nil {
		t.Fatal(err)
	}
	subjects := map[string]string{}
	for _, e := range info.Endpoints {
		subjects[e.Name] = e.Subject
		if e.Metadata["description"] == "" || e.QueueGroup != micro.DefaultQueueGroup {
			t.Errorf("the endpoint %+v says too little", e)
		}
	}
	for _, op := range bus.Ops() {
		if subjects[op.String()] == "" {
			t.Errorf("no endpoint for %v", op)
		}
	}
	if subjects["set"] != "kv.set.>" || subjects["keys"] != "kv.keys" || subjects["keys-prefix"] != "kv.keys.>" {
		t.Errorf("the endpoints are %v", subjects)
	}

	expect(t, nc, "kv.set.k", "x", "1")
	expect(t, nc, "kv.incr.k", "", "!not_a_number")
	expect(t, nc, "kv.incr.n", "", "1")
	var stats micro.Stats
	if err := json.Unmarshal(request(t, nc, "$SRV.STATS.kvbus", "").Data, &stats); err != nil {
		t.Fatal(err)
	}
	incr := endpoint(t, stats, "incr")
	if incr.NumRequests != 2 || incr.NumErrors != 1 || incr.LastError == "" || incr.ProcessingTime <= 0 || incr.AverageProcessingTime <= 0 {
		t.Errorf("the statistics of two increments, one wrong, are %+v", incr)
	}
	if stats.Started.IsZero() || stats.Type != micro.StatsResponseType {
		t.Errorf("the statistics are %+v", stats)
	}
}

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
