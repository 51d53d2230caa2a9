package service_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

// A stale store is not fresh enough for anybody before the test says so. It answers
// nobody who has not waited for that.
type stale struct {
	kv.Store
	asked chan asked
}

type asked struct {
	opts kv.ReadOptions
	done func(error) // nil where nobody asked first
}

func (s *stale) Fresh(_ context.Context, opts kv.ReadOptions, done func(error)) {
	s.asked <- asked{opts, done}
}

func (s *stale) check(opts kv.ReadOptions) error {
	if opts.Consistency == kv.Eventual {
		return nil
	}
	s.asked <- asked{opts: opts}
	return kv.ErrUnavailable
}

func (s *stale) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	if err := s.check(q.ReadOptions); err != nil {
		return kv.Page{}, err
	}
	return s.Store.Scan(ctx, q)
}

func (s *stale) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	if err := s.check(q.ReadOptions); err != nil {
		return kv.Replay{}, err
	}
	return s.Store.Replay(ctx, q)
}

func (s *stale) Info(context.Context) (kv.Info, error) {
	return kv.Info{}, s.check(kv.ReadOptions{})
}

func (s *stale) Describe() (kv.Info, error) { return s.Store.Info(context.Background()) }

// A plain store is given what a request says, and reads by that itself.
type plain struct {
	kv.Store
	asked chan kv.ReadOptions
}

func (s *plain) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	s.asked <- opts
	return s.Store.Get(ctx, key, opts)
}

func (s *plain) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	s.asked <- q.ReadOptions
	return s.Store.Scan(ctx, q)
}

func (s *plain) Replay(ctx context.Context, q kv.ReplayQuery) (kv.Replay, error) {
	s.asked <- q.ReadOptions
	return s.Store.Replay(ctx, q)
}

// A store that can't be asked whether it is fresh enough reads with the consistency of
// the request.
func TestConsistencyOfAPlainStore(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := &plain{memory.New(memory.Options{}), make(chan kv.ReadOptions, 1)}
	defer store.Close()
	if _, err := service.Start(t.Context(), bustest.Connect(t, s), store, service.Options{ClaimWait: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	nc := bustest.Connect(t, s)
	expect(t, nc, "kv.set.k", "v", "1")
	for _, op := range []string{"get.k", "exists.k", "ttl.k", "keys", "scan", "replay"} {
		for header, want := range map[string]kv.Consistency{"linearizable": kv.Linearizable, "eventual": kv.Eventual} {
			request(t, nc, "kv."+op, "", bus.HeaderConsistency, header, bus.HeaderMinRevision, "1")
			if got := <-store.asked; got != (kv.ReadOptions{Consistency: want, MinRevision: 1}) {
				t.Errorf("%s, %s: the store is asked for %+v", op, header, got)
			}
		}
	}
	// It is not told how fresh info has to be, and the service looks at what it says.
	if info, err := bus.DecodeInfo(request(t, nc, "kv.info", "", bus.HeaderMinRevision, "1")); err != nil || info.Revision != 1 {
		t.Errorf("info: %+v, %v", info, err)
	}
	expect(t, nc, "kv.info", "", "!unavailable", bus.HeaderMinRevision, "2")
	expect(t, nc, "kv.info", "", "!invalid_argument", bus.HeaderConsistency, "none")
}

// However many queries wait for a store, they wait together, also while the service
// stops, and each is answered.
func TestQueriesWaitTogether(t *testing.T) {
	for _, op := range []string{"keys", "scan", "replay", "info"} {
		t.Run(op, func(t *testing.T) {
			s := bustest.StartServer(t, server.Options{})
			const requests = 40
			store := &stale{memory.New(memory.Options{}), make(chan asked, 2*requests)}
			defer store.Close()
			svc, err := service.Start(t.Context(), bustest.Connect(t, s), store, service.Options{ClaimWait: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			nc := bustest.Connect(t, s)
			expect(t, nc, "kv.set.k", "v", "1")
			m := nats.NewMsg("kv." + op)
			m.Reply = nc.NewInbox()
			m.Header.Set(bus.HeaderMinRevision, "1")
			want := kv.ReadOptions{MinRevision: 1}
			answers, err := nc.SubscribeSync(m.Reply)
			if err != nil {
				t.Fatal(err)
			}
			for range requests {
				if err := nc.PublishMsg(m); err != nil {
					t.Fatal(err)
				}
			}
			var waiting []func(error)
			for range requests {
				select {
				case a := <-store.asked:
					if a.done == nil {
						t.Fatalf("with %d requests waiting, a worker waits for the store", len(waiting))
					}
					if a.opts != want {
						t.Fatalf("the store is asked for %+v, want %+v", a.opts, want)
					}
					waiting = append(waiting, a.done)
				case <-time.After(patience):
					t.Fatalf("%d of %d requests wait for the store", len(waiting), requests)
				}
			}

			var stopped sync.WaitGroup
			stopped.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := svc.Stop(ctx); err != nil {
					t.Error(err)
				}
			})
			awaitNobody(t, nc, "kv.set.k")
			for i, done := range waiting {
				if i < requests/2 {
					done(fmt.Errorf("%w: as the test wants", kv.ErrUnavailable))
				} else {
					done(nil)
				}
			}
			stopped.Wait()
			got := map[string]int{}
			for got[""]+got["unavailable"] < requests {
				m, err := answers.NextMsg(patience)
				if err != nil {
					t.Fatal(err, got)
				}
				if (op == "scan" || op == "replay") && m.Header.Get(bus.HeaderEnd)+m.Header.Get(bus.HeaderError) == "" {
					continue // there is more
				}
				got[m.Header.Get(bus.HeaderError)]++
			}
			if got["unavailable"] != requests/2 {
				t.Errorf("the answers are %v", got)
			}
		})
	}
}

// A slowStore lets the first of its scans wait.
type slowStore struct {
	kv.Store
	asked    atomic.Bool
	scanning chan struct{}
	end      chan struct{}
}

func (s *slowStore) Scan(ctx context.Context, q kv.Query) (kv.Page, error) {
	if s.asked.CompareAndSwap(false, true) {
		close(s.scanning)
		<-s.end
	}
	return s.Store.Scan(ctx, q)
}

// A scan that takes long keeps no other one waiting.
func TestScansBesideEachOther(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := &slowStore{Store: memory.New(memory.Options{}), scanning: make(chan struct{}), end: make(chan struct{})}
	defer store.Close()
	if _, err := service.Start(t.Context(), bustest.Connect(t, s), store, service.Options{ClaimWait: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	nc := bustest.Connect(t, s)
	if err := nc.PublishRequest("kv.scan", nc.NewInbox(), nil); err != nil {
		t.Fatal(err)
	}
	<-store.scanning
	defer close(store.end)
	if answers := stream(t, nc, "kv.scan"); len(answers) != 1 {
		t.Errorf("a scan of nothing has %d answers", len(answers))
	}
}
