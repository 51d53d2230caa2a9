package bus_test

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
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

// A step is what a scripted service answers to a request; nil is nothing.
type step func(e *bus.Encoder) *nats.Msg

func fails(err error) step { return func(e *bus.Encoder) *nats.Msg { return e.Error(err) } }

func done(e *bus.Encoder) *nats.Msg {
	return e.Result(bus.OpIncrement, kv.Result{Applied: true, Revision: 7, Number: 42})
}

func found(e *bus.Encoder) *nats.Msg {
	return e.Value(kv.Entry{Value: "value", Revision: 7})
}

// serveSteps answers with one step after the other, and the last one from then on.
func serveSteps(t *testing.T, s *server.Server, steps ...step) *scripted {
	t.Helper()
	return serveScript(t, s, func(n int, _ *nats.Msg, e *bus.Encoder) []*nats.Msg {
		if answer := steps[min(n, len(steps))-1]; answer != nil {
			return []*nats.Msg{answer(e)}
		}
		return nil
	})
}

func TestRetries(t *testing.T) {
	unavailable, overloaded, late := fails(kv.ErrUnavailable), fails(kv.ErrOverloaded), fails(kv.ErrTimeout)
	const id = "7f3a"
	read := func(ctx context.Context, h kv.Handle) error {
		_, err := h.Get(ctx, "key")
		return err
	}
	write := func(opts ...kv.WriteOption) func(context.Context, kv.Handle) error {
		return func(ctx context.Context, h kv.Handle) error {
			_, err := h.Increment(ctx, "key", 1, opts...)
			return err
		}
	}
	plain, repeatable := write(), write(kv.WithRequestID(id))
	for _, tt := range []struct {
		name     string
		steps    []step
		call     func(context.Context, kv.Handle) error
		opts     bus.ClientOptions
		lasts    bool // until its time is over
		requests int
		orMore   bool // a busy machine, too, may be asked again before it answers
		want     error
		never    error
	}{
		{name: "a read that is refused", steps: []step{unavailable, overloaded, found}, call: read, requests: 3},
		{name: "a read that is late", steps: []step{late, found}, call: read, requests: 2},
		{
			name: "a read that is late, of one who waits for ever", steps: []step{late, late, found}, call: read,
			opts: bus.ClientOptions{AttemptTimeout: math.MaxInt64}, requests: 3,
		},
		{name: "a read without an answer", steps: []step{nil, nil, found}, call: read, requests: 3, orMore: true},
		{name: "a read that is always refused", steps: []step{unavailable}, call: read, lasts: true, requests: 2, orMore: true, want: kv.ErrUnavailable},
		{name: "a read that never has an answer", steps: []step{nil}, call: read, lasts: true, requests: 2, orMore: true, want: kv.ErrTimeout},
		{name: "a read that is late, then always refused", steps: []step{late, unavailable}, call: read, lasts: true, requests: 2, orMore: true, want: kv.ErrUnavailable},
		{name: "a read that fails", steps: []step{fails(kv.ErrNotFound)}, call: read, requests: 1, want: kv.ErrNotFound},
		{name: "a read that breaks the service", steps: []step{fails(kv.ErrInternal)}, call: read, requests: 1, want: kv.ErrInternal},
		{name: "a read without retries", steps: []step{unavailable, found}, call: read, opts: bus.ClientOptions{NoRetry: true}, requests: 1, want: kv.ErrUnavailable},

		{name: "a write that is refused", steps: []step{unavailable, overloaded, done}, call: plain, requests: 3},
		{name: "a write that is late", steps: []step{late, done}, call: plain, requests: 1, want: kv.ErrTimeout},
		{name: "a write without an answer", steps: []step{nil, done}, call: plain, lasts: true, requests: 1, want: kv.ErrTimeout, never: kv.ErrUnavailable},
		{name: "a write that is refused, then late", steps: []step{overloaded, late, done}, call: plain, requests: 2, want: kv.ErrTimeout},
		{name: "a write without retries", steps: []step{overloaded, done}, call: plain, opts: bus.ClientOptions{NoRetry: true}, requests: 1, want: kv.ErrOverloaded},

		{name: "a write with an id that is late", steps: []step{late, done}, call: repeatable, requests: 2},
		{name: "a write with an id without an answer", steps: []step{nil, nil, done}, call: repeatable, requests: 3, orMore: true},
		{name: "a write with an id without an answer, then refused", steps: []step{nil, unavailable}, call: repeatable, lasts: true, requests: 2, orMore: true, want: kv.ErrTimeout, never: kv.ErrUnavailable},
		{
			name: "a write with an id after its window", steps: []step{nil}, call: repeatable,
			opts: bus.ClientOptions{RepeatWindow: time.Nanosecond}, requests: 1, want: kv.ErrTimeout,
		},
		{name: "a write with an id without retries", steps: []step{late, done}, call: repeatable, opts: bus.ClientOptions{NoRetry: true}, requests: 1, want: kv.ErrTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := bustest.StartServer(t, server.Options{})
			script := serveSteps(t, s, tt.steps...)
			ctx := within(t, watchPatience)
			if tt.lasts {
				ctx = within(t, 3*time.Second)
			}
			if tt.opts.AttemptTimeout == 0 {
				tt.opts.AttemptTimeout = watchPatience
			}
			if slices.ContainsFunc(tt.steps, func(s step) bool { return s == nil }) {
				tt.opts.AttemptTimeout = 20 * time.Millisecond
			}
			err := tt.call(ctx, kv.Of(newClient(t, bustest.Connect(t, s), tt.opts)))
			if tt.want == nil && err != nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if tt.never != nil && errors.Is(err, tt.never) {
				t.Errorf("error %v, which is %v", err, tt.never)
			}
			requests := script.received(t, tt.requests)
			if n := len(requests); n > tt.requests && !tt.orMore {
				t.Errorf("%d requests came, want %d", n, tt.requests)
			}
			for _, m := range requests[1:] {
				if got, want := m.Header.Get(bus.HeaderRequestID), requests[0].Header.Get(bus.HeaderRequestID); got != want {
					t.Errorf("a request with the id %q was sent again with %q", want, got)
				}
			}
		})
	}
}

func TestRetriesUntilSomebodyServes(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	nc := bustest.Connect(t, s)
	_, err := kv.Of(newClient(t, nc, bus.ClientOptions{NoRetry: true})).Set(t.Context(), "key", "")
	wantError(t, "a write that nobody serves", err, kv.ErrUnavailable)

	h := kv.Of(newClient(t, nc, bus.ClientOptions{Timeout: watchPatience}))
	ended := make(chan error, 1)
	go func() {
		_, err := h.Set(t.Context(), "key", "value")
		ended <- err
	}()
	tried := nc.Stats().OutMsgs
	for nc.Stats().OutMsgs < tried+2 {
		time.Sleep(time.Millisecond)
	}
	startBus(t, s, memory.New(memory.Options{}), service.Options{Subjects: defaultSubjects(t)})
	if err := <-ended; err != nil {
		t.Errorf("a write that is served later: %v", err)
	}
	if text, err := h.GetText(t.Context(), "key"); err != nil || text != "value" {
		t.Errorf("%q, %v", text, err)
	}
}

// throughProxy connects by way of a proxy that the test can cut.
func throughProxy(t *testing.T, s *server.Server) (*nats.Conn, *bustest.Proxy) {
	t.Helper()
	proxy := bustest.StartProxy(t, s.Addr().String())
	nc, err := bustest.Dial(proxy.URL(), reconnecting()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, proxy
}

func TestRequestsUnderWayWhenTheConnectionIsLost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer step
		call   func(kv.Handle, *testing.T) error
		again  bool
	}{
		{"a read", found, func(h kv.Handle, t *testing.T) error { _, err := h.Get(t.Context(), "key"); return err }, true},
		{"a write", done, func(h kv.Handle, t *testing.T) error { _, err := h.Increment(t.Context(), "key", 1); return err }, false},
		{"a write with an id", done, func(h kv.Handle, t *testing.T) error {
			_, err := h.Increment(t.Context(), "key", 1, kv.WithRequestID("7f3a"))
			return err
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := bustest.StartServer(t, server.Options{})
			script := serveSteps(t, s, nil, tt.answer)
			nc, proxy := throughProxy(t, s)
			h := kv.Of(newClient(t, nc, bus.ClientOptions{Timeout: watchPatience, AttemptTimeout: watchPatience}))
			ended := make(chan error, 1)
			start := time.Now()
			go func() { ended <- tt.call(h, t) }()
			<-script.requests
			proxy.Cut()
			err := <-ended
			if tt.again && err != nil {
				t.Errorf("error %v", err)
			}
			if !tt.again {
				wantError(t, "a write that may be done", err, kv.ErrTimeout)
			}
			if took := time.Since(start); took > watchPatience/2 {
				t.Errorf("it took %v to notice", took)
			}
			if n := len(script.received(t, 0)); n > 0 != tt.again {
				t.Errorf("%d further requests came", n)
			}
		})
	}
}

// What a client is asked while it has no connection is sent once it has one, and
// nothing is left in a buffer that would be sent after its time.
func TestCallsWithoutAConnection(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	script := serveSteps(t, s, done)
	nc, proxy := throughProxy(t, s)
	client := newClient(t, nc, bus.ClientOptions{})
	h := kv.Of(client)
	away := nc.StatusChanged(nats.RECONNECTING)
	proxy.Redirect("127.0.0.1:1") // nobody is there
	<-away
	_, err := h.Increment(within(t, time.Second), "key", 1)
	wantError(t, "a write without a connection", err, kv.ErrUnavailable)
	if errors.Is(err, kv.ErrTimeout) {
		t.Errorf("%v, though nothing was sent", err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := h.Increment(t.Context(), "later", 1)
		ended <- err
	}()
	proxy.Redirect(s.Addr().String())
	if err := <-ended; err != nil {
		t.Errorf("a write when the connection is back: %v", err)
	}
	requests := script.received(t, 1)
	if len(requests) != 1 || requests[0].Subject != "kv.incr.later" {
		t.Errorf("%d requests came", len(requests))
	}
}

// A heldDialer dials when the test lets it, once it is told to wait for that.
type heldDialer struct {
	hold    atomic.Bool
	dialing chan struct{}
	free    chan struct{}
}

func (d *heldDialer) Dial(network, address string) (net.Conn, error) {
	if d.hold.Load() {
		d.dialing <- struct{}{}
		<-d.free
	}
	return net.Dial(network, address)
}

// What a client is asked while its connection is being made, which may take long, ends
// in time.
func TestCallsWhileTheConnectionIsMade(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	script := serveSteps(t, s, nil, found)
	proxy := bustest.StartProxy(t, s.Addr().String())
	dialer := &heldDialer{dialing: make(chan struct{}, 100), free: make(chan struct{})}
	nc, err := bustest.Dial(proxy.URL(), append(reconnecting(), nats.SetCustomDialer(dialer))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	free := sync.OnceFunc(func() { close(dialer.free) })
	defer free() // before the client is closed, which takes that long
	h := kv.Of(newClient(t, nc, bus.ClientOptions{Timeout: 2 * watchPatience}))
	ended := make(chan error, 1)
	end := func(what string) error {
		t.Helper()
		select {
		case err := <-ended:
			return err
		case <-time.After(watchPatience):
			t.Fatalf("%s does not end", what)
			return nil
		}
	}
	go func() { _, err := h.Increment(t.Context(), "key", 1); ended <- err }()
	<-script.requests
	dialer.hold.Store(true)
	proxy.Cut()
	<-dialer.dialing
	wantError(t, "a write that was under way", end("a write that was under way"), kv.ErrTimeout)
	ctx := within(t, 100*time.Millisecond)
	go func() { _, err := h.Increment(ctx, "key", 1); ended <- err }()
	wantError(t, "a write", end("a write"), kv.ErrUnavailable)
	ctx = within(t, 100*time.Millisecond)
	go func() { _, err := h.Get(ctx, "key"); ended <- err }()
	wantError(t, "a read", end("a read"), kv.ErrUnavailable)
	free()
	if _, err := h.Get(t.Context(), "key"); err != nil {
		t.Errorf("a read when the connection is back: %v", err)
	}
	if n := len(script.received(t, 1)); n != 1 {
		t.Errorf("%d further requests came", n)
	}
}
