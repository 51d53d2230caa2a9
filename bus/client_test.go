package bus_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/kvtest"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/service"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantError(t *testing.T, what string, err error, wants ...error) {
	t.Helper()
	for _, want := range wants {
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", what, err, want)
		}
	}
}

// memoryBus is a server with a store in memory on it.
func memoryBus(t testing.TB) *server.Server {
	t.Helper()
	s := startBusServer(t, server.Options{})
	startBus(t, s, memory.New(memory.Options{}), service.Options{Subjects: defaultSubjects(t)})
	return s
}

func TestClientOptionsThatAreWrong(t *testing.T) {
	nc := bustest.Connect(t, bustest.StartServer(t, server.Options{}))
	for _, opts := range []bus.ClientOptions{
		{Prefix: "a.*"}, {Timeout: -1}, {AttemptTimeout: -1}, {RepeatWindow: -1}, {MaxCalls: -1}, {MaxAnswerBytes: -1},
	} {
		client, err := bus.NewClient(nc, opts)
		if !errors.Is(err, kv.ErrInvalidArgument) || client != nil {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	nc.Close()
	_, err := bus.NewClient(nc, bus.ClientOptions{})
	wantError(t, "a client on a closed connection", err, kv.ErrClosed)
}

func TestClientUnderAnotherPrefix(t *testing.T) {
	s := startBusServer(t, server.Options{})
	subjects, err := bus.NewSubjects("team.kv")
	if err != nil {
		t.Fatal(err)
	}
	startBus(t, s, memory.New(memory.Options{}), service.Options{Subjects: subjects})
	h := kv.Of(newClient(t, bustest.Connect(t, s), bus.ClientOptions{Prefix: "team.kv"}))
	if _, err := h.Set(t.Context(), "a..b", "value"); err != nil {
		t.Fatal(err)
	}
	if text, err := h.GetText(t.Context(), "a..b"); err != nil || text != "value" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestClientExistsTTLAndInfo(t *testing.T) {
	client := newClient(t, bustest.Connect(t, memoryBus(t)), bus.ClientOptions{})
	h := kv.Of(client)
	ctx := t.Context()
	for key, opts := range map[string][]kv.WriteOption{"for-ever": nil, "for-long": {kv.WithTTL(time.Hour)}} {
		if _, err := h.Set(ctx, key, "value", opts...); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string]bool{"for-ever": true, "for-long": true, "absent": false} {
		if live, err := client.Exists(ctx, key, kv.ReadOptions{}); err != nil || live != want {
			t.Errorf("exists %s: %v, %v", key, live, err)
		}
	}
	if left, never, err := client.TTL(ctx, "for-ever", kv.ReadOptions{}); left != 0 || !never || err != nil {
		t.Errorf("ttl of a key without a deadline: %v, %v, %v", left, never, err)
	}
	if left, never, err := client.TTL(ctx, "for-long", kv.ReadOptions{}); left > time.Hour || left < 59*time.Minute || never || err != nil {
		t.Errorf("ttl of a key with one: %v, %v, %v", left, never, err)
	}
	_, never, err := client.TTL(ctx, "absent", kv.ReadOptions{})
	wantError(t, "ttl of no key", err, kv.ErrNotFound)
	if never {
		t.Error("no key lives for ever")
	}
	info, err := client.ServiceInfo(ctx)
	if err != nil || info.Prefix != "kv" || info.MaxValueSize != 1<<20 || info.Keys != 2 {
		t.Errorf("info: %+v, %v", info, err)
	}
}

// A mebibyte of bytes that are no text goes through everything.
func TestClientValuesOfAMebibyte(t *testing.T) {
	s := startBusServer(t, server.Options{})
	startBus(t, s, memory.New(memory.Options{Limits: kv.DefaultLimits()}), service.Options{Subjects: defaultSubjects(t)})
	client := newClient(t, bustest.Connect(t, s), bus.ClientOptions{})
	h := kv.Of(client)
	ctx := within(t, 2*watchPatience)
	large, other := strings.Repeat("\x00\xff\r\n", 1<<18), strings.Repeat("\xfe", 1<<20)
	seen := make(chan kv.Event, 2)
	events := client.Watch(ctx, kv.WatchOptions{})
	go func() {
		defer close(seen)
		count := 0
		for event, err := range events {
			if err != nil {
				t.Error(err)
				return
			}
			seen <- event
			if count++; count == cap(seen) {
				return
			}
		}
	}()
	if _, err := h.Set(ctx, "key", large); err != nil {
		t.Fatal(err)
	}
	if swapped, _, err := h.CompareAndSwap(ctx, "key", kv.IfValue(large), other); err != nil || !swapped {
		t.Fatalf("compare and swap: %v, %v", swapped, err)
	}
	if e, err := h.Get(ctx, "key"); err != nil || e.Value != other {
		t.Errorf("get: %d bytes, %v", len(e.Value), err)
	}
	if page, err := client.Scan(ctx, kv.Query{}); err != nil || len(page.Entries) != 1 || page.Entries[0].Value != other {
		t.Errorf("scan: %d entries, %v", len(page.Entries), err)
	}
	replay, err := client.Replay(ctx, kv.ReplayQuery{})
	if err != nil || len(replay.Events) != 2 || replay.Events[0].Value != large || replay.Events[1].Value != other {
		t.Errorf("replay: %d events, %v", len(replay.Events), err)
	}
	var watched []kv.Event
	for event := range seen {
		watched = append(watched, event)
	}
	if !slices.Equal(watched, replay.Events) {
		t.Errorf("the watch saw %d events, and not those that were replayed", len(watched))
	}
	_, err = h.Set(ctx, "key", large+"!")
	wantError(t, "a value over the limit of the store", err, kv.ErrValueTooLarge)
	_, err = h.Set(ctx, "key", strings.Repeat("v", 4<<20))
	wantError(t, "a value that the bus does not carry", err, kv.ErrValueTooLarge)
}

func TestClientLinearizable(t *testing.T) {
	s := startBusServer(t, jetStream(t))
	clients := clusterClients(t, s, s.ClientURL())
	h := kvtest.CheckLinearizable(t, clients, kvtest.LinearizabilityOptions{Clients: 6, Keys: 4, Operations: 400})
	if n := h.Count(kvtest.Refused, kvtest.Unknown); n > 0 {
		t.Errorf("%d of %d operations were refused or not answered in time", n, len(h))
	}
}

// A client on a connection that breaks again and again repeats what it may, and
// tells what it does not know.
func TestClientLinearizableOverBrokenConnections(t *testing.T) {
	s := startBusServer(t, jetStream(t))
	proxy := bustest.StartProxy(t, s.Addr().String())
	clients := clusterClients(t, s, proxy.URL(), append(reconnecting(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	done := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		ticker := time.NewTicker(30 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				proxy.Cut()
			case <-done:
				return
			}
		}
	})
	h := kvtest.CheckLinearizable(t, clients, kvtest.LinearizabilityOptions{Clients: 6, Keys: 4, Operations: 200})
	close(done)
	cutting.Wait()
	if n := h.Count(kvtest.Done); n == 0 {
		t.Error("nothing was done")
	}
}

// clusterClients are clients, each on a connection of its own, of a store that
// three workers share.
func clusterClients(t *testing.T, s *server.Server, url string, opts ...nats.Option) []kv.Store {
	t.Helper()
	for range 3 {
		store := openReplicated(t, s, replicated.Options{})
		t.Cleanup(func() { store.Close() })
		svc, err := service.Start(t.Context(), bustest.Connect(t, s, nats.InProcessServer(s)), store, service.Options{ClaimWait: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := svc.Stop(within(t, watchPatience)); err != nil {
				t.Errorf("stop a service: %v", err)
			}
		})
	}
	var clients []kv.Store
	for range 3 {
		nc, err := bustest.Dial(url, opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		clients = append(clients, newClient(t, nc, bus.ClientOptions{}))
	}
	return clients
}

// entries are the answer to a scan with n entries of so many bytes, of which the
// first are left out.
func entries(e *bus.Encoder, n, size, lost int) []*nats.Msg {
	var all []*nats.Msg
	for i := range n {
		m := clone(e.ScanEntry(kv.Entry{Key: fmt.Sprint("key", i), Value: strings.Repeat("v", size), Revision: uint64(i + 1)}))
		if i >= lost {
			all = append(all, m)
		}
	}
	return append(all, clone(e.ScanEnd(uint64(n), "")))
}

func TestClientNoticesThatAnEntryIsLost(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	serveScript(t, s, func(n int, _ *nats.Msg, e *bus.Encoder) []*nats.Msg {
		return entries(e, 5, 1, n%2) // each other answer is complete
	})
	nc := bustest.Connect(t, s)
	page, err := newClient(t, nc, bus.ClientOptions{NoRetry: true}).Scan(t.Context(), kv.Query{})
	wantError(t, "a scan that lost an entry", err, kv.ErrUnavailable)
	if len(page.Entries) > 0 {
		t.Errorf("%d entries beside an error", len(page.Entries))
	}
	client := newClient(t, nc, bus.ClientOptions{})
	for range 2 {
		if page, err := client.Scan(t.Context(), kv.Query{}); err != nil || len(page.Entries) != 5 {
			t.Errorf("a scan that is repeated: %d entries, %v", len(page.Entries), err)
		}
	}
}

func TestClientAnswerOverItsLimit(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	script := serveScript(t, s, func(_ int, _ *nats.Msg, e *bus.Encoder) []*nats.Msg { return entries(e, 10, 1000, 0) })
	nc := bustest.Connect(t, s)
	_, err := newClient(t, nc, bus.ClientOptions{MaxAnswerBytes: 5000}).Scan(t.Context(), kv.Query{})
	wantError(t, "an answer over the limit", err, kv.ErrValueTooLarge)
	if n := len(script.received(t, 1)); n != 1 {
		t.Errorf("it was asked for %d times", n)
	}
	if page, err := newClient(t, nc, bus.ClientOptions{MaxAnswerBytes: 50_000}).Scan(t.Context(), kv.Query{}); err != nil || len(page.Entries) != 10 {
		t.Errorf("an answer within the limit: %d entries, %v", len(page.Entries), err)
	}
}

// An entry that is over the limit by itself can be read, and an error that takes the
// place of the end is told as it is.
func TestClientAnswerOfOneEntryOverTheLimit(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	serveScript(t, s, func(n int, _ *nats.Msg, e *bus.Encoder) []*nats.Msg {
		answer := entries(e, 1, 10_000, 0)
		if n > 1 {
			answer[1] = clone(e.Error(kv.ErrInternal))
		}
		return answer
	})
	client := newClient(t, bustest.Connect(t, s), bus.ClientOptions{MaxAnswerBytes: 5000})
	if page, err := client.Scan(t.Context(), kv.Query{Limit: 1}); err != nil || len(page.Entries) != 1 {
		t.Errorf("an answer with one large entry: %d entries, %v", len(page.Entries), err)
	}
	_, err := client.Scan(t.Context(), kv.Query{Limit: 1})
	wantError(t, "one that ends with an error", err, kv.ErrInternal)
}

// A service that knows nothing of scans without values sends them.
func TestClientKeysOnlyOfAnEarlierService(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	serveScript(t, s, func(_ int, _ *nats.Msg, e *bus.Encoder) []*nats.Msg { return entries(e, 3, 10, 0) })
	page, err := newClient(t, bustest.Connect(t, s), bus.ClientOptions{}).Scan(t.Context(), kv.Query{KeysOnly: true})
	if err != nil || len(page.Entries) != 3 || page.Entries[0] != (kv.Entry{Key: "key0", Revision: 1}) {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestClientCallsBeyondMaxCallsWait(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	script := serveScript(t, s, func(int, *nats.Msg, *bus.Encoder) []*nats.Msg { return nil })
	client := newClient(t, bustest.Connect(t, s), bus.ClientOptions{MaxCalls: 1})
	h := kv.Of(client)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := h.Set(ctx, "first", "")
		ended <- err
	}()
	<-script.requests
	_, err := h.Set(within(t, time.Second), "second", "")
	wantError(t, "a call that never had its turn", err, kv.ErrOverloaded, context.DeadlineExceeded)
	cancel()
	wantError(t, "a call that was cancelled", <-ended, kv.ErrTimeout, context.Canceled)
	go func() {
		_, err := h.Set(t.Context(), "third", "")
		ended <- err
	}()
	if m := <-script.requests; m.Subject != "kv.set.third" {
		t.Errorf("%s came", m.Subject)
	}
	client.Close()
	wantError(t, "a call whose client was closed", <-ended, kv.ErrTimeout)
}

func TestClientClose(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	script := serveScript(t, s, func(int, *nats.Msg, *bus.Encoder) []*nats.Msg { return nil })
	nc := bustest.Connect(t, s)
	client := newClient(t, nc, bus.ClientOptions{})
	h := kv.Of(client)
	write, read := make(chan error, 1), make(chan error, 1)
	go func() { _, err := h.Set(t.Context(), "key", ""); write <- err }()
	go func() { _, err := h.Get(t.Context(), "key"); read <- err }()
	<-script.requests
	<-script.requests
	if err := errors.Join(client.Close(), client.Close()); err != nil {
		t.Error(err)
	}
	err := <-write
	wantError(t, "a write that was under way", err, kv.ErrTimeout)
	if errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a write that was under way: %v, which says that nothing was done", err)
	}
	wantError(t, "a read that was under way", <-read, kv.ErrClosed)
	_, err = h.Get(t.Context(), "key")
	wantError(t, "a read after Close", err, kv.ErrClosed)
	if n := nc.NumSubscriptions(); n > 0 || !nc.IsConnected() {
		t.Errorf("the connection has %d subscriptions; connected: %v", n, nc.IsConnected())
	}
}

func TestClientWhoseConnectionIsClosed(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	script := serveScript(t, s, func(int, *nats.Msg, *bus.Encoder) []*nats.Msg { return nil })
	nc := bustest.Connect(t, s)
	h := kv.Of(newClient(t, nc, bus.ClientOptions{}))
	read, write := make(chan error, 1), make(chan error, 1)
	go func() { _, err := h.Get(t.Context(), "key"); read <- err }()
	go func() { _, err := h.Set(t.Context(), "key", ""); write <- err }()
	<-script.requests
	<-script.requests
	nc.Close()
	wantError(t, "a read that was under way", <-read, kv.ErrClosed)
	wantError(t, "a write that was under way", <-write, kv.ErrTimeout)
	_, err := h.Set(t.Context(), "key", "")
	wantError(t, "a write on a closed connection", err, kv.ErrClosed)
}

func TestClientRefusesWhatIsNotOnTheWire(t *testing.T) {
	h := kv.Of(newClient(t, bustest.Connect(t, memoryBus(t)), bus.ClientOptions{}))
	_, err := h.Sweep(t.Context())
	wantError(t, "sweep", err, errors.ErrUnsupported)
	wantError(t, "set limits", h.SetLimits(t.Context(), kv.DefaultLimits()), errors.ErrUnsupported)
	wantError(t, "set limits that are none", h.SetLimits(t.Context(), kv.Limits{MaxKeys: -1}), kv.ErrInvalidArgument)
	_, err = h.Get(t.Context(), "no key")
	wantError(t, "get of no key", err, kv.ErrInvalidKey)
	_, err = h.Store().Scan(t.Context(), kv.Query{Limit: -1})
	wantError(t, "scan with a limit below 0", err, kv.ErrInvalidArgument)
	_, err = h.Store().Replay(t.Context(), kv.ReplayQuery{Limit: -1})
	wantError(t, "replay with a limit below 0", err, kv.ErrInvalidArgument)
}

// A watch that was away for longer than the store remembers is told what it has
// lost, and goes on.
func TestClientWatchThatWasAwayForLong(t *testing.T) {
	const ring, writes = 16, 100
	st := newWatchStage(t, memory.Options{ReplayEvents: ring})
	client := st.client(t)
	next := make(chan error, 1)
	revisions := make(chan uint64, writes)
	events := client.Watch(within(t, watchPatience), kv.WatchOptions{})
	go func() {
		defer close(revisions)
		for event, err := range events {
			if err != nil {
				next <- err
				continue
			}
			revisions <- event.Revision
			if event.Key == "fence" {
				return
			}
		}
	}()
	st.set(t, "key", "")
	if got := <-revisions; got != 1 {
		t.Fatalf("event %d came", got)
	}
	st.proxy.Redirect("127.0.0.1:1") // nobody is there
	for range writes {
		st.set(t, "key", "")
	}
	st.proxy.Redirect(st.server.Addr().String())
	var lag *kv.LagError
	if err := <-next; !errors.As(err, &lag) || lag.First != 2 || lag.Last != writes+1-ring {
		t.Fatalf("%v, want a lag from 2 to %d", err, writes+1-ring)
	}
	for want := lag.Last + 1; want <= writes+1; want++ {
		if got := <-revisions; got != want {
			t.Fatalf("event %d came, want %d", got, want)
		}
	}
	if want, got := st.set(t, "fence", ""), <-revisions; got != want {
		t.Errorf("event %d came, want %d", got, want)
	}
}

// A watch that has lost events goes on after it has told so, also where the service
// does not answer just then.
func TestClientWatchGoesOnAfterALag(t *testing.T) {
	const first, oldest, last = 100, 150, 200
	event := kv.Event{Kind: kv.EventSet, Key: "key", Revision: last, PreviousRevision: last - 1, Time: time.Now()}
	for _, away := range []string{"kv.info", "kv.keys"} {
		t.Run(away, func(t *testing.T) {
			t.Parallel()
			s := bustest.StartServer(t, server.Options{})
			lost, failed := false, false
			script := serveScript(t, s, func(_ int, m *nats.Msg, e *bus.Encoder) []*nats.Msg {
				if m.Subject == away && lost {
					failed = !failed // each other one does
				}
				switch {
				case m.Reply == "":
					return nil
				case m.Subject == away && failed:
					return []*nats.Msg{e.Error(kv.ErrUnavailable)}
				case m.Subject == "kv.info":
					info, err := e.Info(bus.Info{Info: kv.Info{Durable: true, OldestRevision: oldest, Revision: last}})
					if err != nil {
						t.Error(err)
					}
					return []*nats.Msg{info}
				case m.Subject == "kv.keys":
					return []*nats.Msg{e.Keys(kv.Page{Revision: first})}
				case lost:
					return []*nats.Msg{clone(e.ReplayEvent(event)), clone(e.ReplayEnd(last, false))}
				default:
					lost = true
					return []*nats.Msg{e.Error(kv.ErrCompacted)}
				}
			})
			client := newClient(t, bustest.Connect(t, s), bus.ClientOptions{NoRetry: true})
			next, stop := iter.Pull2(client.Watch(within(t, watchPatience), kv.WatchOptions{}))
			defer stop()
			if err := script.nc.PublishMsg(new(bus.Encoder).Event(defaultSubjects(t), event)); err != nil {
				t.Fatal(err)
			}
			var lag *kv.LagError
			if _, err, _ := next(); !errors.As(err, &lag) || lag.First != first+1 || lag.Last != oldest-1 {
				t.Fatalf("%v, want a lag from %d to %d", err, first+1, oldest-1)
			}
			if got, err, _ := next(); err != nil || got.Revision != last {
				t.Errorf("after the lag comes %+v, %v", got, err)
			}
		})
	}
}

// A watch of some keys that misses an event may have come further than to the last one
// that it has given. Where the store no longer holds what is between them, it is told
// what it has lost, and goes on.
func TestClientWatchOfSomeKeysThatMissesAnEvent(t *testing.T) {
	t.Parallel()
	for name, since := range map[string]int{"the ring has what came since it last looked": 1, "it has not": 2} {
		t.Run(name, func(t *testing.T) { testMissesAnEvent(t, since) })
	}
}

// testMissesAnEvent writes so many times after the watch has looked for what it may have
// lost.
func testMissesAnEvent(t *testing.T, since int) {
	t.Parallel()
	const ring, writes = 64, 48
	st := newMuteStage(t, memory.Options{ReplayEvents: ring})
	next, stop := iter.Pull2(st.client(t).Watch(within(t, watchPatience), kv.WatchOptions{Filter: parseFilter(t, "a")}))
	defer stop()
	st.set(t, "a", "given")
	st.publish(t, 1)
	if event, err, _ := next(); err != nil || event.Revision != 1 {
		t.Fatalf("first comes %+v, %v", event, err)
	}
	// It looks for what it may have lost when its connection comes back, and then asks
	// whose store it is.
	asked, err := st.nc.SubscribeSync("kv.info")
	if err != nil {
		t.Fatal(err)
	}
	come := make(chan error, 1)
	go func() {
		_, err, _ := next()
		come <- err
	}()
	write := func() {
		for range writes {
			st.set(t, "other", "")
		}
	}
	write()
	st.proxy.Cut()
	if _, err := asked.NextMsg(watchPatience); err != nil {
		t.Fatal(err)
	}
	for range since {
		write()
	}
	lost, seen := st.set(t, "a", "lost"), st.set(t, "a", "seen")
	st.publish(t, seen)
	var lag *kv.LagError
	if err := <-come; !errors.As(err, &lag) || lag.First != 2 || lag.Last != seen-ring {
		t.Fatalf("%v, want a lag from 2 to %d", err, seen-ring)
	}
	for _, want := range []uint64{lost, seen} {
		if event, err, _ := next(); err != nil || event.Revision != want {
			t.Fatalf("after the lag comes %+v, %v, want event %d", event, err, want)
		}
	}
}

// A watch whose context ends after a lag, and that is iterated again.
func TestClientWatchIteratedAgainAfterALag(t *testing.T) {
	const first, oldest, last = 100, 150, 200
	event := kv.Event{Kind: kv.EventSet, Key: "key", Revision: last, PreviousRevision: last - 1, Time: time.Now()}
	s := bustest.StartServer(t, server.Options{})
	script := serveScript(t, s, func(_ int, m *nats.Msg, e *bus.Encoder) []*nats.Msg {
		switch m.Subject {
		case "kv.info":
			info, err := e.Info(bus.Info{Info: kv.Info{Durable: true, OldestRevision: oldest, Revision: last}})
			if err != nil {
				t.Error(err)
			}
			return []*nats.Msg{info}
		case "kv.keys":
			return []*nats.Msg{e.Keys(kv.Page{Revision: first})}
		default:
			if m.Reply == "" {
				return nil
			}
			return []*nats.Msg{e.Error(kv.ErrCompacted)}
		}
	})
	client := newClient(t, bustest.Connect(t, s), bus.ClientOptions{NoRetry: true})
	ctx, cancel := context.WithCancel(within(t, watchPatience))
	defer cancel()
	events := client.Watch(ctx, kv.WatchOptions{})
	if err := script.nc.PublishMsg(new(bus.Encoder).Event(defaultSubjects(t), event)); err != nil {
		t.Fatal(err)
	}
	var got error
	for _, err := range events {
		got = err
		if _, ok := errors.AsType[*kv.LagError](err); ok {
			cancel()
		}
	}
	wantError(t, "the end", got, context.Canceled)
	for _, got = range events {
	}
	wantError(t, "the end of another iteration", got, context.Canceled)
}
