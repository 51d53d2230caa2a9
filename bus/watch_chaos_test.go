package bus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"kvbus/bus"
	"kvbus/kv"
	"kvbus/kv/memory"
)

// chaosDuration is how long the chaos lasts: not long, unless the environment
// says otherwise, as in KVBUS_TEST_CHAOS=60s.
func chaosDuration(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("KVBUS_TEST_CHAOS")
	if text == "" {
		return 2 * time.Second
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return duration
}

// A watching is a watcher with what it selects.
type watching struct {
	*watcher
	opts bus.FollowOptions
}

// chaosWatchers starts 50 watchers with different filters, spread over clients.
func chaosWatchers(t *testing.T, st *watchStage, clients []*bus.Client) []watching {
	t.Helper()
	selections := []bus.FollowOptions{
		{},
		{Prefix: "k.1"},
		{Prefix: "k.2."},
		{Filter: parseFilter(t, "k.*.a")},
		{Filter: parseFilter(t, "k.3.b")},
		{Filter: parseFilter(t, "k.>"), MaxPending: 50},
		{MaxPending: 20, PageSize: 30},
		{Filter: parseFilter(t, "*.*.b"), Prefix: "k.1"},
		{Filter: parseFilter(t, "other")},
		{Start: kv.After(0), MaxPendingBytes: 1000},
	}
	all := make([]watching, 50)
	for i := range all {
		opts := selections[i%len(selections)]
		all[i] = watching{st.follow(t, clients[i/len(selections)%len(clients)], quick(opts)), opts}
	}
	return all
}

// Many watchers, some slow and some of them in pages, follow a store that is
// written to while their connections and those of the publisher are cut. Each of
// them sees the history of its keys, no more and no less.
func TestChaos(t *testing.T) {
	t.Parallel()
	duration := chaosDuration(t)
	st := newWatchStage(t, memory.Options{ReplayEvents: 1 << 22, ReplayBytes: 4 << 30})
	all := chaosWatchers(t, st, []*bus.Client{st.client(t), st.client(t), st.client(t), st.client(t), st.client(t)})

	end := time.Now().Add(duration)
	var busy sync.WaitGroup
	for writer := range 2 {
		busy.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				key := fmt.Sprintf("k.%d.%s", rand.N(20), []string{"a", "b"}[rand.N(2)])
				var err error
				switch rand.N(8) {
				case 0:
					_, err = st.Delete(context.Background(), key)
				case 1:
					_, err = st.Set(context.Background(), key, "brief", kv.WithTTL(time.Millisecond))
				case 2:
					_, err = st.Touch(context.Background(), key, time.Hour)
				default:
					_, err = st.Set(context.Background(), key, fmt.Sprint(writer, i))
				}
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(rand.N(300 * time.Microsecond))
			}
		})
	}
	cut := func(cut func(), every time.Duration) {
		busy.Go(func() {
			for time.Now().Before(end) {
				time.Sleep(rand.N(every))
				cut()
			}
		})
	}
	cut(st.proxy.Cut, 300*time.Millisecond)
	cut(st.workerProxy.Cut, 700*time.Millisecond)
	cut(func() {
		w := all[rand.N(len(all))]
		w.hold.Lock()
		time.Sleep(rand.N(20 * time.Millisecond))
		w.hold.Unlock()
	}, 20*time.Millisecond)
	busy.Wait()

	st.set(t, "other", "the last")
	total := 0
	for _, w := range all {
		history := st.history(t, w.opts, 0)
		w.matches(history)
		total += len(history)
		if extra := len(w.left()); extra > 0 {
			t.Errorf("%+v: %d changes too many", w.opts, extra)
		}
	}
	t.Logf("%d events given to %d watchers", total, len(all))
}
