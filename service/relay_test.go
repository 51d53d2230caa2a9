package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"kvbus/kv/memory"
	"kvbus/service"
)

// keeping returns servers of a cluster that keep requests under a prefix to
// themselves.
func keeping(t testing.TB, prefix string, opts server.Options) []*server.Server {
	t.Helper()
	subjects, err := bus.NewSubjects(prefix)
	if err != nil {
		t.Fatal(err)
	}
	opts.Cluster.Permissions = &server.RoutePermissions{Import: &server.SubjectPermission{Deny: subjects.RequestPatterns()}}
	return bustest.StartCluster(t, opts)
}

// startRelay relays the requests of a server's clients.
func startRelay(t *testing.T, s *server.Server) *service.Relay {
	t.Helper()
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	nc := bustest.Connect(t, s, nats.InProcessServer(s), silent)
	relay, err := service.StartRelay(t.Context(), nc, service.RelayOptions{
		Subjects: subjects,
		Interest: s.GlobalAccount().Interest,
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return relay
}

// awaitRelayed waits until a server knows that all that is relayed finds somebody.
func awaitRelayed(t *testing.T, s *server.Server) {
	t.Helper()
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		unknown := slices.ContainsFunc(subjects.Relay().RequestPatterns(), func(pattern string) bool {
			return !s.GlobalAccount().SubscriptionInterest(pattern)
		})
		if !unknown {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the server hears of no worker")
		}
		time.Sleep(time.Millisecond)
	}
}

// What comes to a server without a worker is answered by one elsewhere, as if it
// had come there.
func TestRelay(t *testing.T) {
	servers := keeping(t, bus.DefaultPrefix, server.Options{})
	client := bustest.Connect(t, servers[1])
	relay := startRelay(t, servers[1])
	everything, err := client.SubscribeSync(">") // as people do to look
	if err != nil {
		t.Fatal(err)
	}
	expect(t, client, "kv.set.color", "red", "!unavailable")
	if err := everything.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	svc, _ := startService(t, servers[0], memory.Options{}, service.Options{Relayed: true})
	awaitRelayed(t, servers[1])
	expect(t, client, "kv.set.color", "blue", "1", bus.HeaderTTL, "1h")
	expect(t, client, "kv.cas.color", "green", "true", bus.HeaderExpected, "blue")
	expect(t, client, "kv.incr.a.=.b", "", "1")
	expect(t, client, "kv.get.a.=.b", "", "1")
	expect(t, client, "kv.keys", "", "a..b\ncolor")
	expect(t, client, "kv.get.a.==", "", "!invalid_key")
	if info := string(request(t, client, "kv.info", "").Data); !strings.Contains(info, `"revision":3`) {
		t.Errorf("the info is %s", info)
	}
	if answers := stream(t, client, "kv.scan.a"); len(answers) != 2 {
		t.Errorf("a scan has %d answers", len(answers))
	}
	if m := request(t, client, "kv.get.a.==", ""); !strings.Contains(m.Header.Get(bus.HeaderServiceError), `"a.=="`) {
		t.Errorf("an error speaks of another subject than was asked: %v", m.Header)
	}

	if got := endpoint(t, svc.Stats(), "set"); got.NumRequests != 1 || got.NumErrors != 0 {
		t.Errorf("the worker has counted %d sets, %d of them errors", got.NumRequests, got.NumErrors)
	}

	relay.Stop(t.Context())
	if _, err := client.Request("kv.get.color", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("after the relay's end a request ends with %v", err)
	}
}

// The last worker may be gone when a request comes there of which the relay's server
// does not know it yet. That is told as what it is, and ends the wait for the answer.
func TestRelayToNobody(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := service.StartRelay(t.Context(), bustest.Connect(t, s), service.RelayOptions{
		Subjects: subjects,
		Interest: func(subject string) int {
			if subject == subjects.Relay().Unused() {
				return 0
			}
			return 1
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	nc := bustest.Connect(t, s)
	for _, subject := range []string{"kv.get.color", "kv.set.color", "kv.scan"} {
		expect(t, nc, subject, "", "!unavailable")
	}
	stopped := make(chan struct{})
	go func() { relay.Stop(context.Background()); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Error("the relay waits for more answers")
	}
}

// A relay hands on what a header says, or nothing.
func TestRelayedHeaders(t *testing.T) {
	servers := keeping(t, bus.DefaultPrefix, server.Options{})
	startService(t, servers[0], memory.Options{}, service.Options{Relayed: true})
	awaitRelayed(t, servers[1])
	client := bustest.Connect(t, servers[1])
	relay := startRelay(t, servers[1])
	defer relay.Stop(t.Context())
	expect(t, client, "kv.set.color", "blue", "1")

	inbox := client.NewInbox()
	answers, err := client.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ headers, want string }{
		{"NATS/9.9\r\n\r\n", "!invalid_argument"},                   // nobody can read them
		{"NATS/1.0\r\nKV-Expected: blue \r\n\r\n", "!unavailable"},  // nats.go drops the space
		{"NATS/1.0\r\nKV-Expected: bl\rue\r\n\r\n", "!unavailable"}, // makes a space of the carriage return
		{"NATS/1.0\r\nKV-TTL: 1h\r\nKV-TTL: 2h\r\n\r\n", "!invalid_argument"},
		{"NATS/1.0\r\nKV-TTL : 1h\r\nKV-Expected: blue\r\n\r\n", "!invalid_argument"}, // nats.go would not send such a name
		{"NATS/1.0\r\nkv-expected: green\r\nMy Header: 1\r\n\r\n", "false"},
		{"NATS/1.0\r\nkv-expected: blue\r\nMy Header: 1\r\n\r\n", "true"},
	} {
		rawPublish(t, servers[1], fmt.Sprintf("HPUB kv.cas.color %s %d %d\r\n%sred\r\n", inbox, len(test.headers), len(test.headers)+3, test.headers))
		m, err := answers.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		got := string(m.Data)
		if name := m.Header.Get(bus.HeaderError); name != "" {
			got = "!" + name
		}
		if got != test.want {
			t.Errorf("%q is answered with %s, %v; want %s", test.headers, got, m.Header, test.want)
		}
	}
}

// Nothing that a client asks for ends a relay.
func TestRelayLastsBeyondLongSubjects(t *testing.T) {
	servers := keeping(t, bus.DefaultPrefix, server.Options{})
	startService(t, servers[0], memory.Options{}, service.Options{Relayed: true})
	awaitRelayed(t, servers[1])
	client := bustest.Connect(t, servers[1])
	relay := startRelay(t, servers[1])
	defer relay.Stop(t.Context())
	inbox := client.NewInbox()
	for line := server.MAX_CONTROL_LINE_SIZE - 40; line < server.MAX_CONTROL_LINE_SIZE; line++ {
		key := strings.Repeat("x", line-len("PUB kv.get.  0"))
		rawPublish(t, servers[1], fmt.Sprintf("PUB kv.get.%s  0\r\n\r\nPUB kv.get.%s %s 0\r\n\r\n", key, key[len(inbox):], inbox))
	}
	expect(t, client, "kv.get."+strings.Repeat("x", kv.MaxKeyLength+1), "", "!invalid_key")
	expect(t, client, "kv.set."+strings.Repeat(".x", kv.MaxKeyLength/2)[1:], "", "1")
}

// What a service import asks for has a reply subject that no client may give to a
// message of its own.
func TestRelayedServiceImport(t *testing.T) {
	kvAccount, appAccount := server.NewAccount("KV"), server.NewAccount("APP")
	s := bustest.StartServer(t, server.Options{
		Accounts: []*server.Account{kvAccount, appAccount},
		Users: []*server.User{
			{Username: "kv", Password: "1", Account: kvAccount},
			{Username: "app", Password: "1", Account: appAccount},
		},
	})
	account, err := s.LookupAccount("KV")
	if err != nil {
		t.Fatal(err)
	}
	app, err := s.LookupAccount("APP")
	if err != nil {
		t.Fatal(err)
	}
	if err := account.AddServiceExport("kv.>", nil); err != nil {
		t.Fatal(err)
	}
	if err := app.AddServiceImport(account, "kv.>", "kv.>"); err != nil {
		t.Fatal(err)
	}
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	worker := bustest.Connect(t, s, nats.UserInfo("kv", "1"))
	if _, err := worker.Subscribe(subjects.Relay().Prefix()+".info", func(m *nats.Msg) {
		if err := m.Respond([]byte("{}")); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := worker.Flush(); err != nil {
		t.Fatal(err)
	}
	relay, err := service.StartRelay(t.Context(), bustest.Connect(t, s, nats.UserInfo("kv", "1")), service.RelayOptions{
		Subjects: subjects, Interest: account.Interest, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Stop(t.Context())
	expect(t, bustest.Connect(t, s, nats.UserInfo("app", "1")), "kv.info", "", "{}")
}

// A relay ends when what it has handed on is answered, or in time.
func TestRelayWaitsForAnswers(t *testing.T) {
	servers := keeping(t, bus.DefaultPrefix, server.Options{})
	_, g := startGated(t, servers[0], service.Options{Relayed: true})
	awaitRelayed(t, servers[1])
	client := bustest.Connect(t, servers[1])
	for _, answered := range []bool{true, false} {
		relay := startRelay(t, servers[1])
		inbox := client.NewInbox()
		answers, err := client.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.PublishRequest("kv.set.a", inbox, nil); err != nil {
			t.Fatal(err)
		}
		<-g.entered
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		stopped := make(chan struct{})
		go func() { relay.Stop(ctx); close(stopped) }()
		// It takes no more, and has not ended.
		for err == nil {
			_, err = client.Request("kv.get.a", nil, patience)
		}
		if !errors.Is(err, nats.ErrNoResponders) {
			t.Fatal(err)
		}
		select {
		case <-stopped:
			t.Fatal("it ends before the answer has come")
		default:
		}
		if !answered {
			cancel()
			<-stopped
		}
		g.gate <- struct{}{}
		if answered {
			m, err := answers.NextMsg(patience)
			if err != nil || string(m.Data) != "1" {
				t.Errorf("the answer is %v, %v", m, err)
			}
			<-stopped
			if ctx.Err() != nil {
				t.Error("it has waited for too long")
			}
		}
		cancel()
	}
}

// A relay that falls behind answers what it can't hold.
func TestRelayOverloaded(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	nc := bustest.Connect(t, s)
	relay, err := service.StartRelay(t.Context(), nc, service.RelayOptions{
		Subjects: subjects,
		Interest: func(string) int { <-gate; return 0 },
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Stop(t.Context())
	client := bustest.Connect(t, s)
	inbox := client.NewInbox()
	answers, err := client.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const requests = 50 // of a million bytes each
	body := make([]byte, 1e6)
	for range requests {
		if err := client.PublishRequest("kv.set.a", inbox, body); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(patience); nc.Stats().InMsgs < requests; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests have come", nc.Stats().InMsgs)
		}
	}
	close(gate)
	got := map[string]int{}
	for range requests {
		m, err := answers.NextMsg(patience)
		if err != nil {
			t.Fatal(err, got)
		}
		got[m.Header.Get(bus.HeaderError)]++
	}
	if got["overloaded"] == 0 || got["unavailable"] == 0 || len(got) != 2 {
		t.Errorf("the answers are %v", got)
	}
}

// A full queue refuses what comes directly and what is relayed, at the same time.
func TestOverloadedFromBothSides(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	_, g := startGated(t, s, service.Options{MaxPending: 1, Relayed: true})
	defer close(g.gate)
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	client := bustest.Connect(t, s)
	if err := client.Publish("kv.set.a", nil); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	var clients sync.WaitGroup
	for _, relayed := range []bool{false, true} {
		nc := bustest.Connect(t, s)
		inbox := nc.NewInbox()
		answers, err := nc.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			const requests = 2000
			m := &nats.Msg{Subject: "kv.set.a", Reply: inbox}
			if relayed {
				m.Subject = subjects.Rebase(m.Subject, subjects.Relay())
			}
			for range requests {
				if err := nc.PublishMsg(m); err != nil {
					t.Error(err)
				}
			}
			for range requests {
				m, err := answers.NextMsg(patience)
				if err != nil {
					t.Error(err)
					return
				}
				if name := m.Header.Get(bus.HeaderError); name != "overloaded" {
					t.Errorf("the answer is %q, %v", m.Data, m.Header)
					return
				}
			}
		})
	}
	clients.Wait()
}

// Between a relay and a worker, in both directions, each request is answered, and
// counts once.
func TestRelayTakesOver(t *testing.T) {
	servers := keeping(t, bus.DefaultPrefix, server.Options{})
	stores := make([]kv.Store, 2)
	for i := range stores {
		stores[i] = newStore(t, servers[i], true)
	}
	opts := service.Options{ClaimWait: time.Millisecond, Relayed: true}
	if _, err := service.Start(t.Context(), bustest.Connect(t, servers[0]), stores[0], opts); err != nil {
		t.Fatal(err)
	}
	awaitRelayed(t, servers[1])
	client := bustest.Connect(t, servers[1])
	relay := startRelay(t, servers[1])

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const rounds = 5
	asked := make(chan int)
	go func() {
		n, missed := 0, 0
		for ctx.Err() == nil {
			m, err := client.Request("kv.incr.n", nil, patience)
			if err == nil {
				err = bus.DecodeError(m.Header)
			}
			// A server may look up who takes a request and find that they have left
			// when it gives it to them, but no more than once each time.
			if errors.Is(err, nats.ErrNoResponders) && missed < 2*rounds {
				t.Logf("after %d requests: %v", n, err)
				missed++
				continue
			}
			if err != nil {
				t.Errorf("after %d requests: %v", n, err)
				break
			}
			n++
		}
		asked <- n
	}()
	for range rounds {
		nc := bustest.Connect(t, servers[1], nats.InProcessServer(servers[1]))
		svc, err := service.Start(t.Context(), nc, stores[1], opts)
		if err != nil {
			t.Fatal(err)
		}
		relay.Stop(t.Context())
		relay = startRelay(t, servers[1])
		if err := svc.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	n := <-asked
	relay.Stop(t.Context())
	expect(t, bustest.Connect(t, servers[0]), "kv.get.n", "", fmt.Sprint(n))
}
