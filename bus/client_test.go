package bus_test

import (
	"context"
	"errors"
	"fmt"
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
	s := bustest.StartServer(t, server.Options{})
	nc := bustest.Connect(t, s)
	for _, opts := range []bus.ClientOptions{
		{Prefix: "a.*"}, {Timeout: -1}, {AttemptTimeout: -1}, {RepeatWindow: -1}, {MaxCalls: -1}, {MaxAnswerBytes: -1},
	} {
		client, err := bus.NewClient(nc, opts)
		if !errors.Is(err, kv.ErrInvalidArgument) || client != nil {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	for _, inbox := range []string{"kv", "kv.inbox", strings.Repeat("i", bus.MaxReplyLength), strings.Repeat("i", bus.MaxReplyLength-24)} {
		unanswered := bustest.Connect(t, s, nats.CustomInboxPrefix(inbox))
		if _, err := bus.NewClient(unanswered, bus.ClientOptions{}); !errors.Is(err, kv.ErrInvalidArgument) {
			t.Errorf("the inbox prefix %.10q: %v", inbox, err)
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
	info, err := client.ServiceInfo(ctx, kv.ReadOptions{})
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
