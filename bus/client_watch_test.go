package bus_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
)

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
