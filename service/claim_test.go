package service_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/service"
)

// newStore returns a store in memory, or a worker's part of a shared one.
func newStore(t *testing.T, s *server.Server, shared bool) kv.Store {
	t.Helper()
	var store kv.Store = memory.New(memory.Options{})
	if shared {
		var err error
		if store, err = replicated.Open(t.Context(), bustest.Connect(t, s), replicated.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// A worker with a store of its own and those that share one exclude each other,
// whichever starts first; those that share one do not.
func TestOneStoreForAPrefix(t *testing.T) {
	const own, shared = false, true
	for name, test := range map[string]struct {
		first, second bool
		want          string // in the error of the second; empty for none
	}{
		"own, own":       {own, own, "with a store of its own"},
		"own, shared":    {own, shared, "with a store of its own"},
		"shared, own":    {shared, own, "with a shared store"},
		"shared, shared": {shared, shared, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
			lost := make(chan error, 1)
			opts := service.Options{ClaimWait: 300 * time.Millisecond, OnLost: func(err error) { lost <- err }}
			// As they start, and as they come back.
			first, err := service.Start(t.Context(), bustest.Connect(t, s), newStore(t, s, test.first), opts)
			if err != nil {
				t.Fatal(err)
			}
			if test.want != "" {
				opts.ClaimWait = patience // it is told before that is over
			}
			_, err = service.Start(t.Context(), bustest.Connect(t, s), newStore(t, s, test.second), opts)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, service.ErrPrefixTaken) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), first.ID()) {
				t.Errorf("the second worker: %v", err)
			}
			if err := first.Recheck(t.Context()); err != nil {
				t.Error(err)
			}
			select {
			case err := <-lost:
				t.Errorf("a worker lost its claim: %v", err)
			default:
			}
		})
	}
}

// Of workers that start at the same moment those stay that share a store, or one
// that has its own, and at least one does.
func TestOneStoreStays(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	for range 3 {
		var (
			start, ended sync.WaitGroup
			mu           sync.Mutex
			serving      = map[bool][]*service.Service{} // by whether the store is shared
		)
		start.Add(1)
		for i := range 4 {
			shared := i%2 == 0
			nc, store := bustest.Connect(t, s), newStore(t, s, shared)
			ended.Go(func() {
				start.Wait()
				svc, err := service.Start(t.Context(), nc, store, service.Options{ClaimWait: 3 * time.Second})
				if err == nil {
					mu.Lock()
					serving[shared] = append(serving[shared], svc)
					mu.Unlock()
				} else if !errors.Is(err, service.ErrPrefixTaken) {
					t.Error(err)
				}
			})
		}
		start.Done()
		ended.Wait()
		own, shared := serving[false], serving[true]
		if len(own) > 1 || len(own) > 0 && len(shared) > 0 || len(own)+len(shared) == 0 {
			t.Errorf("%d workers with a store of their own stay, and %d that share one", len(own), len(shared))
		}
		for _, svc := range append(own, shared...) {
			if err := svc.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

// However many workers with stores of their own start at the same moment, one
// stays.
func TestOneExclusiveWorkerStays(t *testing.T) {
	t.Parallel()
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
			_, err := service.Start(t.Context(), nc, store, service.Options{ClaimWait: 3 * time.Second})
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
	_, err := service.Start(t.Context(), nc, store, service.Options{ClaimWait: patience}) // it is told before that is over
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
// they can, whoever asks first: the earlier one stays.
func TestWorkersMeetLater(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint("worker ", i+1, " asks"), func(t *testing.T) { meetLater(t, i) })
	}
}

func meetLater(t *testing.T, asks int) {
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
		nc, err := bustest.Dial(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
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
	for late := time.Now().Add(patience); len(lost) == 0; {
		if err := services[asks].Recheck(t.Context()); err != nil || time.Now().After(late) {
			t.Fatalf("both serve: %v", err)
		}
	}
	if name := <-lost; name != "worker 2" {
		t.Errorf("%s lost its claim", name)
	}
}

// Who may look for services can't end a worker by what a ping says, though that is
// followed up.
func TestForgedPing(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	lost := make(chan error, 1)
	svc, _ := startService(t, s, memory.Options{}, service.Options{OnLost: func(err error) { lost <- err }})
	nc := bustest.Connect(t, s)
	asked := make(chan *nats.Msg, 10)
	if _, err := nc.ChanSubscribe("$SRV.PING.kvbus.*", asked); err != nil {
		t.Fatal(err)
	}
	ping := nats.NewMsg("$SRV.PING")
	ping.Reply = nc.NewInbox()
	answers, err := nc.SubscribeSync(ping.Reply)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a\r\nb", "a b", "*", "", svc.ID(), "x"} {
		ping.Header = nats.Header{"kvbus-prefix": {"kv"}, "kvbus-id": {id}, "kvbus-claimed-at": {"0"}, "kvbus-settled": {"true"}}
		if err := nc.PublishMsg(ping); err != nil {
			t.Fatal(err)
		}
		if _, err := answers.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case m := <-asked:
		if m.Subject != "$SRV.PING.kvbus.x" {
			t.Errorf("the worker asks %s", m.Subject)
		}
	case err := <-lost:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("the worker does not ask whose claim that is")
	}
	expect(t, nc, "kv.set.k", "", "1")
	select {
	case err := <-lost:
		t.Error(err)
	default:
	}
}
