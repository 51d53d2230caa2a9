package watchbridge_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/watchbridge"
)

// Connections that break at any moment leave no event out and change no order.
func TestBrokenConnections(t *testing.T) {
	st := start(t, memory.Options{})
	const events = 3000
	for i := range events {
		st.set(t, fmt.Sprint("k", i%7), strconv.Itoa(i))
		if i%500 == 250 {
			st.proxy.Cut()
		}
	}
	next := uint64(1)
	for next <= events {
		event := st.next(t)
		if event.Revision > next {
			t.Fatalf("revision %d came before %d", event.Revision, next)
		}
		if event.Revision == next {
			if want := strconv.Itoa(int(next - 1)); event.Value != want {
				t.Fatalf("revision %d has value %q, want %q", next, event.Value, want)
			}
			next++
		}
	}
	st.finish(t)
	if stats := st.bridge.Stats(); stats.Lost != 0 || stats.Revision != events {
		t.Errorf("the counts are %+v", stats)
	}
}

// A connection that breaks as soon as it is made is noticed though nothing is
// to be published.
func TestBrokenAtOnce(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := memory.New(memory.Options{})
	defer store.Close()
	dials := make(chan struct{}, 1)
	watchbridge.Start(store, watchbridge.Options{Dial: func(context.Context) (*nats.Conn, error) {
		nc, err := bustest.Dial(s.ClientURL(), nats.NoReconnect())
		if err == nil {
			nc.Close()
		}
		select {
		case dials <- struct{}{}:
		default:
		}
		return nc, err
	}})
	for range 3 {
		select {
		case <-dials:
		case <-time.After(patience):
			t.Fatal("the bridge stays on a connection that is closed")
		}
	}
}

// Where no connection can be made, the log has it once, however often it is tried.
func TestRefusedConnections(t *testing.T) {
	store := memory.New(memory.Options{})
	var log strings.Builder
	dials := make(chan time.Time, 5)
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			select {
			case dials <- time.Now():
			default:
			}
			return nil, nats.ErrAuthorization
		},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	first := <-dials
	for range cap(dials) - 2 {
		<-dials
	}
	if took := (<-dials).Sub(first); took < time.Second {
		t.Errorf("%d attempts in %v", cap(dials), took)
	}
	store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if count := strings.Count(log.String(), nats.ErrAuthorization.Error()); count != 1 {
		t.Errorf("it is told %d times:\n%s", count, log.String())
	}
}

// On a slow connection little is on its way that is not confirmed: the answers come
// in time, however much there is to publish.
func TestSlowConnection(t *testing.T) {
	t.Parallel()
	st := start(t, memory.Options{ReplayBytes: 1 << 30})
	st.proxy.Pace(8 << 20)
	const events, size, bound = 100, 100_000, 512 << 10
	for range events {
		st.set(t, "k", strings.Repeat("v", size))
	}
	most := uint64(0)
	waitFor(t, func() bool {
		stats := st.bridge.Stats()
		most = max(most, stats.Published-min(stats.Revision, stats.Published))
		return stats.Revision == events
	})
	if most*size > bound {
		t.Errorf("%d bytes were published and not confirmed; want at most %d", most*size, bound)
	}
	if stats := st.bridge.Stats(); stats.Published != events {
		t.Errorf("the counts are %+v", stats)
	}
}

// A bridge whose connections come to nothing makes them more and more rarely.
func TestConnectionsInVain(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	subjects := defaultSubjects(t)
	store := memory.New(memory.Options{})
	t.Cleanup(func() { store.Close() })
	dials := make(chan time.Time, 5)
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial: func(ctx context.Context) (*nats.Conn, error) {
			select {
			case dials <- time.Now():
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			nc, err := bustest.Dial(s.ClientURL(), nats.NoReconnect())
			if err == nil {
				nc.Close()
			}
			return nc, err
		},
		Subjects: subjects,
	})
	var last time.Time
	for i := range 5 {
		at := <-dials
		if least := 50 * time.Millisecond << i; i > 0 && at.Sub(last) < least {
			t.Errorf("dial %d comes %v after the one before; want at least %v", i, at.Sub(last), least)
		}
		last = at
	}
	store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// A failing source ends the watches of one session after the other with an error, and is
// closed in the end.
type failing struct {
	watchbridge.Source
	session  *atomic.Int64 // counted from 1
	failures []string
}

func (f failing) Watch(context.Context, kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return func(yield func(kv.Event, error) bool) {
		// Another watch of a session is before it has its connection.
		if i := max(f.session.Load(), 1); int(i) > len(f.failures) {
			yield(kv.Event{}, kv.ErrClosed)
		} else {
			yield(kv.Event{}, errors.New(f.failures[i-1]))
		}
	}
}

// What ends one session after the other is told once, until it is something else.
func TestSameFailureIsToldOnce(t *testing.T) {
	t.Parallel()
	s := bustest.StartServer(t, server.Options{})
	subjects := defaultSubjects(t)
	store := memory.New(memory.Options{})
	t.Cleanup(func() { store.Close() })
	told := make(chan string, 10)
	source := failing{store, new(atomic.Int64), []string{"one", "one", "another"}}
	bridge := watchbridge.Start(source, watchbridge.Options{
		Dial: func(context.Context) (*nats.Conn, error) {
			nc, err := bustest.Dial(s.ClientURL(), nats.NoReconnect())
			source.session.Add(1)
			return nc, err
		},
		Subjects: subjects,
		Logger:   slog.New(slog.NewTextHandler(logWriter(func(line string) { told <- line }), nil)),
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := bridge.Wait(ctx); err != nil {
		t.Error(err)
	}
	close(told)
	var failures []string
	for line := range told {
		_, text, _ := strings.Cut(line, " error=")
		failures = append(failures, strings.Fields(text)[0])
	}
	if want := []string{"one", "another"}; !slices.Equal(failures, want) {
		t.Errorf("the log tells of %q, want %q", failures, want)
	}
}
