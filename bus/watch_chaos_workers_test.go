package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
	"kvbus/service"
	"kvbus/watchbridge"
)

// A sharedWorker is a worker with the log of a server, which it reaches through
// a proxy of its own. It can be killed and started again.
type sharedWorker struct {
	name   string
	server *server.Server
	proxy  *bustest.Proxy
	// replicas is the number of servers that hold the log.
	replicas int

	nc      *nats.Conn
	store   *replicated.Store
	service *service.Service
	bridge  *watchbridge.Bridge
}

func newSharedWorker(t testing.TB, s *server.Server, name string, replicas int) *sharedWorker {
	t.Helper()
	w := &sharedWorker{name: name, server: s, proxy: bustest.StartProxy(t, s.Addr().String()), replicas: replicas}
	w.start(t)
	t.Cleanup(w.kill)
	return w
}

// start is called by the goroutine of the test.
func (w *sharedWorker) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*watchPatience)
	defer cancel()
	var err error
	if w.nc, err = bustest.Dial(w.proxy.URL(), append(reconnecting(), nats.ReconnectBufSize(-1))...); err != nil {
		t.Fatal(err)
	}
	opts := replicated.Options{Replicas: w.replicas, ReplayEvents: 1 << 22, ReplayBytes: 4 << 30, Cursor: watchbridge.Cursor, Timeout: 2 * time.Second}
	if w.store, err = replicated.Open(ctx, w.nc, opts); err != nil {
		t.Fatal(err)
	}
	subjects := defaultSubjects(t)
	w.bridge = watchbridge.Start(w.store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial(w.proxy.URL(), nats.NoReconnect())
		},
		Subjects:       subjects,
		BurstHeartbeat: 20 * time.Millisecond,
		IdleHeartbeat:  100 * time.Millisecond,
	})
	w.service, err = service.Start(ctx, w.nc, w.store, service.Options{
		Subjects: subjects, WorkerName: w.name, Version: "0.0.0", ClaimWait: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// kill ends a worker as a signal that can't be caught would: nothing that it does
// from now on reaches the server.
func (w *sharedWorker) kill() {
	if w.nc == nil {
		return
	}
	w.cutOff()
	w.nc.Close()
	// Each of these complains about a server that is away.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_ = w.service.Stop(ctx)
	_ = w.store.Close()
	_ = w.bridge.Wait(ctx)
	w.nc = nil
}

// cutOff leaves the worker without a way to the server, join gives it one again.
func (w *sharedWorker) cutOff() { w.proxy.Redirect("127.0.0.1:1") } // nobody is there
func (w *sharedWorker) join()   { w.proxy.Redirect(w.server.Addr().String()) }

// whoPublishes finds out which of the workers is elected, while there are writes,
// and returns another one as well.
func whoPublishes(t testing.TB, workers []*sharedWorker) (publisher, other *sharedWorker) {
	t.Helper()
	before := make([]uint64, len(workers))
	for i, w := range workers {
		before[i] = w.bridge.Stats().Published
	}
	for late := time.Now().Add(3 * watchPatience); ; time.Sleep(time.Millisecond) {
		for i, w := range workers {
			if w.bridge.Stats().Published > before[i] {
				return w, workers[(i+1)%len(workers)]
			}
		}
		if time.Now().After(late) {
			t.Fatal("no worker publishes")
		}
	}
}

// awaitWrites waits until some more writes were answered.
func awaitWrites(t testing.TB, written *atomic.Int64) {
	t.Helper()
	before := written.Load()
	for late := time.Now().Add(3 * watchPatience); written.Load() < before+50; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("no more writes are answered")
		}
	}
}

// Workers share a log. The one that publishes is killed and started again, or cut
// off for longer than JetStream waits for it, and another one is killed too, while
// clients write and watchers lose their connections. Each watcher sees the history
// of its keys.
func TestChaosOfWorkers(t *testing.T) {
	t.Parallel()
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		s := bustest.StartServer(t, jetStream(t))
		chaosOfWorkers(t, []*server.Server{s}, []*sharedWorker{newSharedWorker(t, s, "one", 1), newSharedWorker(t, s, "other", 1)})
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		servers := bustest.StartCluster(t, server.Options{})
		workers := make([]*sharedWorker, len(servers))
		for i, s := range servers {
			workers[i] = newSharedWorker(t, s, fmt.Sprint("worker-", i), len(servers))
		}
		chaosOfWorkers(t, servers, workers)
	})
}

func chaosOfWorkers(t *testing.T, servers []*server.Server, workers []*sharedWorker) {
	duration := chaosDuration(t)
	var stages []*watchStage
	var clients []*bus.Client
	for _, s := range servers {
		st := &watchStage{server: s, proxy: bustest.StartProxy(t, s.Addr().String()), subjects: defaultSubjects(t)}
		stages = append(stages, st)
		clients = append(clients, st.client(t), st.client(t))
	}
	all := chaosWatchers(t, stages[0], clients)

	stop := make(chan struct{})
	var busy sync.WaitGroup
	ending := sync.OnceFunc(func() { close(stop); busy.Wait() })
	defer ending()
	var written, unknown atomic.Int64
	for writer := range 4 {
		store := kv.Of(newClient(t, bustest.Connect(t, servers[writer%len(servers)]), bus.ClientOptions{Timeout: 5 * time.Second, AttemptTimeout: time.Second}))
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("k.%d.%s", rand.N(20), []string{"a", "b"}[rand.N(2)])
				var err error
				switch rand.N(6) {
				case 0:
					_, err = store.Delete(context.Background(), key)
				case 1:
					_, err = store.Set(context.Background(), key, "brief", kv.WithTTL(time.Millisecond))
				default:
					_, err = store.Set(context.Background(), key, fmt.Sprint(writer, i))
				}
				switch {
				case err == nil:
					written.Add(1)
				case errors.Is(err, kv.ErrTimeout) || errors.Is(err, kv.ErrUnavailable):
					unknown.Add(1)
				default:
					t.Errorf("a write fails with %v", err)
					return
				}
				time.Sleep(rand.N(time.Millisecond)) // as a busy store, not as a flood
			}
		})
	}
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(rand.N(500 * time.Millisecond)):
				stages[rand.N(len(stages))].proxy.Cut()
			}
		}
	})

	kills, cuts := 0, 0
	for end := time.Now().Add(duration); kills == 0 || cuts == 0 || time.Now().Before(end); {
		publisher, other := whoPublishes(t, workers)
		switch w := publisher; (kills + cuts) % 3 {
		case 1:
			cuts++
			w.cutOff()
			time.Sleep(2500 * time.Millisecond) // more than JetStream waits for it
			w.join()
		case 2:
			w = other
			fallthrough
		default:
			kills++
			w.kill()
			w.join()
			w.start(t)
		}
		awaitWrites(t, &written)
	}
	ending()

	// The last word is that of a client, so that all workers have all before it.
	last := kv.Of(newClient(t, bustest.Connect(t, servers[0]), bus.ClientOptions{Timeout: 3 * watchPatience}))
	revision, err := last.Set(t.Context(), "k.1.a", "the last")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, w := range all {
		replay, err := last.Store().Replay(t.Context(), kv.ReplayQuery{Prefix: w.opts.Prefix, Filter: w.opts.Filter})
		if err != nil {
			t.Fatal(err)
		}
		var history []kv.Event
		for _, event := range replay.Events {
			if event.Revision <= revision { // and no expiry since
				history = append(history, event)
			}
		}
		w.matches(history)
		for _, extra := range w.left() {
			if extra.Revision <= revision {
				t.Errorf("%+v: a change too many: %+v", w.opts, extra)
			}
		}
		total += len(history)
	}
	t.Logf("%d writes, %d of unknown outcome, %d kills, %d cuts; %d events given to %d watchers",
		written.Load(), unknown.Load(), kills, cuts, total, len(all))
}
