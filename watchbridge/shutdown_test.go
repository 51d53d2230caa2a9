package watchbridge_test

import (
	"context"
	"errors"
	"iter"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/watchbridge"
)

// A store that is closed while the server is away has nobody to wait for, unless
// there is something to publish.
func TestWaitWithoutServer(t *testing.T) {
	st := start(t, memory.Options{})
	st.set(t, "k", "heard")
	waitFor(t, func() bool { return st.bridge.Stats().Revision == 1 })
	st.proxy.Redirect("127.0.0.1:1") // nobody is there
	st.finish(t)
}

// The same where making a connection waits for the server.
func TestWaitWithoutServerToConnectTo(t *testing.T) {
	store := memory.New(memory.Options{})
	dialing := make(chan struct{})
	bridge := watchbridge.Start(store, watchbridge.Options{Dial: func(ctx context.Context) (*nats.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	<-dialing
	store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// What is due is published when the server comes back in time.
func TestWaitForServer(t *testing.T) {
	st := start(t, memory.Options{})
	st.proxy.Redirect("127.0.0.1:1") // nobody is there
	st.set(t, "k", "late")
	st.store.Close()
	ended := make(chan error, 1)
	go func() { ended <- st.bridge.Wait(t.Context()) }()
	select {
	case err := <-ended:
		t.Fatalf("the wait is over before the event is published: %v", err)
	case <-time.After(10 * time.Millisecond): // long enough to fail now and then
	}
	st.proxy.Redirect(st.server.Addr().String())
	if event := st.next(t); event.Value != "late" {
		t.Errorf("the event is %+v", event)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An endingStore tells when its end was seen.
type endingStore struct {
	*memory.Store
	seen func()
}

func (s endingStore) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		for event, err := range s.Store.Watch(ctx, opts) {
			more := yield(event, err)
			if errors.Is(err, kv.ErrClosed) {
				s.seen()
			}
			if !more {
				return
			}
		}
	}
}

// The connection breaks when the store is closed and all is published, but not
// confirmed: the server may not have it, so it is published again.
func TestConnectionBreaksAfterTheLastEvent(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	subjects := defaultSubjects(t)
	events := listen(t, s, "kv.events.>")
	proxy := bustest.StartProxy(t, s.Addr().String())
	seen := make(chan struct{})
	store := endingStore{memory.New(memory.Options{}), sync.OnceFunc(func() { close(seen) })}
	var once sync.Once
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			nc, err := bustest.Dial(proxy.URL(), nats.NoReconnect())
			once.Do(func() { proxy.Pace(0) })
			return nc, err
		},
		Subjects: subjects,
	})
	if _, err := kv.Of(store).Set(t.Context(), "k", "last"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return bridge.Stats().Published == 1 })
	store.Close()
	<-seen
	proxy.Cut()
	proxy.Pace(bustest.Free)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if m, err := events.NextMsg(patience); err != nil || string(m.Data) != "last" {
		t.Errorf("%v comes, %v", m, err)
	}
}

func TestWaitCountsWhatIsNotPublished(t *testing.T) {
	for name, patience := range map[string]time.Duration{"after a while": time.Second, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			st := start(t, memory.Options{ReplayEvents: 10})
			st.set(t, "k", "heard")
			waitFor(t, func() bool { return st.bridge.Stats().Revision == 1 })
			st.proxy.Redirect("127.0.0.1:1") // nobody is there
			for range 7 {
				st.set(t, "k", "unheard")
			}
			st.store.Close()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			err := st.bridge.Wait(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "7 events after revision 1") {
				t.Errorf("a wait without a bus returns %v", err)
			}
		})
	}
}

// A logWriter calls a function for each line of a log.
type logWriter func(line string)

func (w logWriter) Write(p []byte) (int, error) { w(string(p)); return len(p), nil }

// What the ring has dropped while the bridge had no connection is counted, also
// where the store was closed since.
func TestDroppedBeforeClose(t *testing.T) {
	for name, comesBack := range map[string]bool{"the server stays away": false, "the server comes back": true} {
		t.Run(name, func(t *testing.T) {
			interrupted := make(chan struct{}, 1)
			st := startLogged(t, memory.Options{ReplayEvents: 10}, logWriter(func(line string) {
				if strings.Contains(line, "interrupted") {
					select {
					case interrupted <- struct{}{}:
					default:
					}
				}
			}))
			st.set(t, "k", "heard")
			waitFor(t, func() bool { return st.bridge.Stats().Revision == 1 })
			st.proxy.Redirect("127.0.0.1:1") // nobody is there
			<-interrupted
			for range 17 {
				st.set(t, "k", "unheard")
			}
			st.store.Close()
			if comesBack {
				st.proxy.Redirect(st.server.Addr().String())
				st.finish(t)
				if stats := st.bridge.Stats(); stats != (watchbridge.Stats{Published: 11, Lost: 7, Revision: 18}) {
					t.Errorf("the counts are %+v", stats)
				}
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			err := st.bridge.Wait(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "17 events after revision 1") {
				t.Errorf("a wait without a bus returns %v", err)
			}
		})
	}
}

// A stuckConn is a connection on which a write waits once it is held.
type stuckConn struct {
	net.Conn
	held    atomic.Bool
	waiting chan struct{} // a write waits
	free    chan struct{} // it goes on
}

func (c *stuckConn) Write(p []byte) (int, error) {
	if c.held.CompareAndSwap(true, false) {
		close(c.waiting)
		<-c.free
	}
	return c.Conn.Write(p)
}

// Dial makes the connection, as the dialer of NATS.
func (c *stuckConn) Dial(network, address string) (_ net.Conn, err error) {
	c.Conn, err = net.Dial(network, address)
	return c, err
}

// A wait ends with its context, also while the server does not take what is written.
func TestWaitWhileAWriteIsStuck(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	subjects := defaultSubjects(t)
	conn := &stuckConn{waiting: make(chan struct{}), free: make(chan struct{})}
	store := memory.New(memory.Options{})
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			return bustest.Dial(s.ClientURL(), nats.NoReconnect(), nats.SetCustomDialer(conn))
		},
		Subjects: subjects,
	})
	set := func(value string) {
		if _, err := kv.Of(store).Set(t.Context(), "k", value); err != nil {
			t.Fatal(err)
		}
	}
	set("")
	waitFor(t, func() bool { return bridge.Stats().Revision == 1 })
	conn.held.Store(true)
	set(strings.Repeat("v", 1<<16)) // too large to wait for other writes
	<-conn.waiting
	store.Close()
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		ended <- bridge.Wait(ctx)
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 events after revision 1") {
			t.Errorf("the wait returns %v", err)
		}
	case <-time.After(patience):
		t.Error("the wait does not end")
	}
	close(conn.free)
	if err := bridge.Wait(t.Context()); err != nil { // until it has stopped
		t.Error(err)
	}
}

// awaitPulls waits until JetStream has heard of so many workers that would publish.
func awaitPulls(t *testing.T, s *server.Server, log watchbridge.Log, workers int) {
	t.Helper()
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), log.Stream(), watchbridge.Cursor)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumWaiting >= workers
	})
}

// Of workers that share a store, the one that publishes waits for the server
// where something is due; the others never do.
func TestElectedWithoutServer(t *testing.T) {
	for name, test := range map[string]struct {
		unheard int
		want    string // in the error; empty for none
	}{
		"nothing is due":   {0, ""},
		"something is due": {3, "3 events after revision 2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
			proxy := bustest.StartProxy(t, s.Addr().String())
			publishing := startPublisher(t, s, proxy.URL())
			set := func() {
				if _, err := kv.Of(publishing.store).Set(t.Context(), "k", ""); err != nil {
					t.Fatal(err)
				}
			}
			set()
			waitFor(t, func() bool { return publishing.bridge.Stats().Revision == 1 })
			set()
			waitFor(t, func() bool { return publishing.bridge.Stats().Revision == 2 })
			waiting := startPublisher(t, s, proxy.URL())
			awaitPulls(t, s, publishing.store, 2)
			proxy.Redirect("127.0.0.1:1") // nobody is there
			for range test.unheard {
				set()
			}

			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			waiting.store.Close()
			if err := waiting.bridge.Wait(ctx); err != nil {
				t.Errorf("the worker that did not publish: %v", err)
			}
			publishing.store.Close()
			if test.want != "" {
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
			}
			err := publishing.bridge.Wait(ctx)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("the worker that published: %v", err)
			}
		})
	}
}
