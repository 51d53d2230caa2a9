package recipe_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/bus/recipe"
	"kvbus/kv"
	"kvbus/kv/replicated"
	"kvbus/service"
	"kvbus/watchbridge"
)

const patience = 10 * time.Second

// A worker serves a store on a server.
type worker struct {
	server *server.Server
	store  kv.Store
}

// stores are what the recipes are tried on, over the bus.
var stores = map[string]func(t testing.TB, s *server.Server) kv.Store{
	"memory": func(t testing.TB, _ *server.Server) kv.Store { return newStore(t) },
	"replicated": func(t testing.TB, s *server.Server) kv.Store {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		store, err := replicated.Open(ctx, bustest.Connect(t, s, nats.InProcessServer(s)), replicated.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	},
}

func startWorker(t testing.TB, open func(t testing.TB, s *server.Server) kv.Store) *worker {
	t.Helper()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir(), MaxPayload: 8 << 20})
	w := &worker{server: s, store: open(t, s)}
	nc := bustest.Connect(t, s, nats.InProcessServer(s))
	if _, err := service.Start(t.Context(), nc, w.store, service.Options{ClaimWait: time.Millisecond, Version: "0.0.0"}); err != nil {
		t.Fatal(err)
	}
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	bridge := watchbridge.Start(w.store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return nats.Connect("", nats.InProcessServer(s), nats.NoReconnect())
		},
		Subjects:      subjects,
		IdleHeartbeat: 20 * time.Millisecond,
	})
	t.Cleanup(func() {
		w.store.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := bridge.Wait(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

// A wire is a store by the protocol and nothing more: nothing is repeated, and
// events are those that come.
type wire struct {
	kv.Store // none; what the recipes do not use
	nc       *nats.Conn
	subjects bus.Subjects
}

func (w *worker) connect(t testing.TB, url string, opts ...nats.Option) *wire {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return &wire{nc: nc, subjects: subjects}
}

func (w *wire) request(ctx context.Context, m *nats.Msg, err error) (*nats.Msg, error) {
	if err != nil {
		return nil, err
	}
	answer, err := w.nc.RequestMsgWithContext(ctx, m)
	if errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	}
	return answer, err
}

func (w *wire) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	op := map[kv.Op]bus.Op{kv.OpCompareAndSwap: bus.OpCompareAndSwap, kv.OpDelete: bus.OpDelete, kv.OpIncrement: bus.OpIncrement}[cmd.Op]
	m, err := w.subjects.EncodeCommand(cmd)
	m, err = w.request(ctx, m, err)
	if err != nil {
		return kv.Result{}, err
	}
	return bus.DecodeResult(op, m)
}

func (w *wire) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	m, err := w.subjects.EncodeRead(bus.OpGet, key, opts)
	m, err = w.request(ctx, m, err)
	if err != nil {
		return kv.Entry{}, err
	}
	return bus.DecodeValue(key, m)
}

func (w *wire) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	sub, err := w.nc.SubscribeSync(w.subjects.EventPattern(opts.Filter))
	if err == nil {
		err = w.nc.FlushTimeout(patience)
	}
	return func(yield func(kv.Event, error) bool) {
		if err != nil {
			yield(kv.Event{}, err)
			return
		}
		defer sub.Unsubscribe()
		for {
			m, err := sub.NextMsgWithContext(ctx)
			if err != nil {
				yield(kv.Event{}, err)
				return
			}
			event, err := w.subjects.DecodeEvent(m)
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

func TestLockOverTheBus(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, open)
			exclude(t, w.connect(t, w.server.ClientURL()), 4, 5)
		})
	}
}

// A holder that loses its connection knows in time, and the one who waits has the
// lock then, not before.
func TestLockOfALostConnection(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, open)
			proxy := bustest.StartProxy(t, w.server.Addr().String())
			short := recipe.LockOptions{TTL: time.Second}
			held, err := recipe.Acquire(t.Context(), w.connect(t, proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond)), "lock", short)
			if err != nil {
				t.Fatal(err)
			}
			proxy.Cut() // it comes back, and the lock is kept
			renewals := 0
			for event, err := range w.store.Watch(t.Context(), kv.WatchOptions{}) {
				if err != nil || event.Kind != kv.EventSet {
					t.Fatal(event, err)
				}
				if renewals++; renewals == 4 {
					break // that is more than the TTL
				}
			}
			if err := held.Err(); err != nil {
				t.Fatal(err)
			}
			proxy.Redirect("127.0.0.1:1") // nobody is there
			next, err := recipe.Acquire(t.Context(), w.connect(t, w.server.ClientURL()), "lock", short)
			if err != nil {
				t.Fatal(err)
			}
			if !isLost(held.Lost()) {
				t.Error("two hold the lock")
			}
			if next.Token() <= held.Token() {
				t.Errorf("token %d after %d", next.Token(), held.Token())
			}
			if err := held.Unlock(t.Context()); !errors.Is(err, recipe.ErrLost) {
				t.Errorf("unlock of the lost one: %v", err)
			}
			unlock(t, next)
		})
	}
}

func TestLimiterOverTheBus(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, open)
			limiter, err := recipe.NewLimiter(w.connect(t, w.server.ClientURL()), "limit.", 2, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			for use := range 3 {
				d, err := limiter.Allow(t.Context(), "alice")
				if err != nil || d.Allowed != (use < 2) {
					t.Errorf("use %d: %+v, %v", use, d, err)
				}
				if left := d.RetryAfter(time.Now()); left > time.Hour || left < time.Hour-time.Minute {
					t.Errorf("%v left of an hour", left)
				}
			}
		})
	}
}
