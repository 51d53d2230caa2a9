package bus_test

import (
	"bufio"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv/memory"
)

// Watches are plain subscriptions: once they have started, nothing of 10,000 of
// them reaches the service as long as nothing changes, so that it has nothing to
// remember of them either. Then each gets the event.
func TestManyIdleWatchesAskNothing(t *testing.T) {
	t.Parallel()
	connections, watches := 10, 1000 // on each
	if raceDetector {
		watches = 100 // it can't follow more than 8128 goroutines
	}
	st := newWatchStage(t, memory.Options{})
	st.set(t, "many.before", "")
	var mu sync.Mutex
	all := make([]*watcher, 0, connections*watches)
	var starting sync.WaitGroup
	for range connections {
		client := st.client(t)
		starting.Go(func() {
			for range watches {
				w := st.follow(t, client, bus.FollowOptions{Prefix: "many."})
				mu.Lock()
				all = append(all, w)
				mu.Unlock()
			}
		})
	}
	starting.Wait()
	subscriptions := st.nc.NumSubscriptions()

	spy := bustest.Connect(t, st.server)
	beats, err := spy.SubscribeSync("kv.revision")
	if err != nil {
		t.Fatal(err)
	}
	// At the first heartbeat each of them asks once whether the store is still the
	// one that it has started with. That is over when a while has passed without.
	const enough = 5
	asked := st.nc.Stats().InMsgs
	for quiet := 0; quiet < enough; quiet++ {
		if _, err := beats.NextMsg(watchPatience); err != nil {
			t.Fatal(err)
		}
		if now := st.nc.Stats().InMsgs; now != asked {
			quiet, asked = 0, now
		}
	}
	once := uint64(connections * watches * 2) // where to start, and whose store it is
	// On a busy machine some ask again.
	if asked > 2*once {
		t.Errorf("%d requests came, want %d for the start of all", asked, once)
	}
	for range 2 * enough {
		if _, err := beats.NextMsg(watchPatience); err != nil {
			t.Fatal(err)
		}
	}
	if got := st.nc.Stats().InMsgs; got != asked {
		t.Errorf("while nothing changes %d requests come", got-asked)
	}
	if got := st.nc.NumSubscriptions(); got != subscriptions {
		t.Errorf("the service has %d subscriptions, %d before", got, subscriptions)
	}
	st.set(t, "many.key", "value")
	for _, w := range all {
		if e := w.event(); e.Key != "many.key" || e.Revision != 2 {
			t.Fatalf("the event is %+v", e)
		}
	}
}

// BenchmarkServerSubscription measures what a watch takes of the NATS server: the
// memory of a subscription. The client is a socket, which takes none.
func BenchmarkServerSubscription(b *testing.B) {
	s := bustest.StartServer(b, server.Options{})
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		b.Fatal(err)
	}
	answers, requests := bufio.NewReader(conn), bufio.NewWriter(conn)
	send := func(format string, args ...any) {
		if _, err := fmt.Fprintf(requests, format+"\r\n", args...); err != nil {
			b.Fatal(err)
		}
	}
	sync := func() {
		send("PING")
		if err := requests.Flush(); err != nil {
			b.Fatal(err)
		}
		for {
			line, err := answers.ReadString('\n')
			if err != nil {
				b.Fatal(err)
			}
			if strings.HasPrefix(line, "PONG") {
				return
			}
		}
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	send(`CONNECT {"verbose":false}`)
	sync()
	before := heap()
	b.ResetTimer()
	for i := range b.N {
		send("SUB kv.events.user.* %d", i)
	}
	sync()
	b.StopTimer()
	b.ReportMetric(float64(heap()-before)/float64(b.N), "B/subscription")
	if got := s.NumSubscriptions(); int(got) < b.N {
		b.Fatalf("%d subscriptions, want %d", got, b.N)
	}
}
