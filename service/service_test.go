package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
)

const patience = 10 * time.Second

func request(t *testing.T, nc *nats.Conn, subject, body string, headers ...string) *nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	answer, err := nc.RequestMsg(m, patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return answer
}

// expect makes a request and compares the body of the answer, or "!" and the
// name of the error.
func expect(t *testing.T, nc *nats.Conn, subject, body, want string, headers ...string) *nats.Msg {
	t.Helper()
	m := request(t, nc, subject, body, headers...)
	got := string(m.Data)
	if name := m.Header.Get(bus.HeaderError); name != "" {
		got = "!" + name
	}
	if got != want {
		t.Errorf("%s %q %q answers %q, want %q", subject, body, headers, got, want)
	}
	return m
}

// stream makes a request that is answered by many messages, up to the last.
func stream(t *testing.T, nc *nats.Conn, subject string, headers ...string) []*nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Reply = nc.NewRespInbox()
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	sub, err := nc.SubscribeSync(m.Reply)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	var answers []*nats.Msg
	for {
		answer, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("%s after %d answers: %v", subject, len(answers), err)
		}
		answers = append(answers, answer)
		if answer.Header.Get(bus.HeaderEnd) != "" || answer.Header.Get(bus.HeaderError) != "" {
			return answers
		}
	}
}

func TestOperations(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)

	expect(t, nc, "kv.get.color", "", "!not_found")
	set := expect(t, nc, "kv.set.color", "blue", "1")
	if got := set.Header.Get(bus.HeaderRevision); got != "1" {
		t.Errorf("set answers revision %q in its header", got)
	}
	expect(t, nc, "kv.get.color", "", "blue")
	expect(t, nc, "kv.exists.color", "", "true")
	expect(t, nc, "kv.exists.shape", "", "false")
	expect(t, nc, "kv.ttl.color", "", "never")
	expect(t, nc, "kv.ttl.shape", "", "!not_found")
	expect(t, nc, "kv.touch.color", "1h", "true")
	if m := request(t, nc, "kv.ttl.color", ""); !strings.HasPrefix(string(m.Data), "59m59.") {
		t.Errorf("an hour left is told as %q", m.Data)
	}
	expect(t, nc, "kv.touch.shape", "1h", "false")
	expect(t, nc, "kv.cas.color", "red", "false")
	expect(t, nc, "kv.cas.color", "red", "true", "KV-Expected", "blue")
	expect(t, nc, "kv.cas.color", "redgreen", "true", "KV-Expected-Length", "3")
	expect(t, nc, "kv.get.color", "", "green")
	conflict := expect(t, nc, "kv.set.color", "x", "!conflict", "KV-Expected-Revision", "1")
	if got := conflict.Header.Get(bus.HeaderRevision); got != "4" {
		t.Errorf("a conflict tells revision %q, want 4", got)
	}
	expect(t, nc, "kv.incr.hits", "", "1")
	expect(t, nc, "kv.incr.hits", "41", "42")
	expect(t, nc, "kv.incr.color", "", "!not_a_number")
	expect(t, nc, "kv.incr.hits", "many", "!invalid_argument")
	expect(t, nc, "kv.set.a.=.b", "x", "7")
	keys := expect(t, nc, "kv.keys", "", "a..b\ncolor\nhits")
	if got := keys.Header.Get(bus.HeaderCount); got != "3" {
		t.Errorf("three keys are counted as %q", got)
	}
	expect(t, nc, "kv.keys.co", "", "color")
	expect(t, nc, "kv.delete.color", "", "true")
	expect(t, nc, "kv.delete.color", "", "false")
	expect(t, nc, "kv.clear.h", "", "1")
	expect(t, nc, "kv.clear", "", "1")
	expect(t, nc, "kv.keys", "", "")

	var info bus.Info
	if err := json.Unmarshal(request(t, nc, "kv.info", "").Data, &info); err != nil {
		t.Fatal(err)
	}
	if info.Store != "memory" || info.Revision != 10 || info.Keys != 0 || info.MaxValueSize == 0 || info.Prefix != "kv" {
		t.Errorf("the info is %+v", info)
	}
}

func TestStreams(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	for i := range 5 {
		expect(t, nc, fmt.Sprint("kv.set.k", i), fmt.Sprint("v", i), fmt.Sprint(i+1))
	}
	show := func(answers []*nats.Msg) string {
		var b strings.Builder
		for _, m := range answers {
			fmt.Fprintf(&b, "%s%s=%s@%s ", m.Header.Get(bus.HeaderOperation), m.Header.Get(bus.HeaderKey), m.Data, m.Header.Get(bus.HeaderRevision))
		}
		return b.String()
	}
	if got, want := show(stream(t, nc, "kv.scan")), "k0=v0@1 k1=v1@2 k2=v2@3 k3=v3@4 k4=v4@5 =@5 "; got != want {
		t.Errorf("scan answers %s, want %s", got, want)
	}
	first := stream(t, nc, "kv.scan.k", "KV-Limit", "3")
	if got, want := show(first), "k0=v0@1 k1=v1@2 k2=v2@3 =@5 "; got != want {
		t.Errorf("the first page is %s, want %s", got, want)
	}
	rest := stream(t, nc, "kv.scan.k", "KV-Limit", "3", "KV-Cursor", first[3].Header.Get(bus.HeaderCursor))
	if got, want := show(rest), "k3=v3@4 k4=v4@5 =@5 "; got != want || rest[2].Header.Get(bus.HeaderCursor) != "" {
		t.Errorf("the second page is %s, want %s", got, want)
	}
	if got, want := show(stream(t, nc, "kv.replay", "KV-From-Revision", "3")), "SETk3=v3@4 SETk4=v4@5 =@5 "; got != want {
		t.Errorf("replay answers %s, want %s", got, want)
	}
	compacted := stream(t, nc, "kv.replay", "KV-From-Revision", "9")
	if got := compacted[0].Header.Get(bus.HeaderError); got != "compacted" {
		t.Errorf("a replay from the future answers %q", got)
	}
}

// All keys are listed, page by page, however little a message carries.
func TestKeysInSmallMessages(t *testing.T) {
	s := bustest.StartServer(t, server.Options{MaxPayload: 6 << 10})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	var want []string
	for i := range 1000 {
		key := fmt.Sprintf("%03d%s", i, strings.Repeat("k", i%5))
		want = append(want, key)
		if _, err := kv.Of(store).Set(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	cursor := ""
	for pages := 1; ; pages++ {
		headers := []string{}
		if cursor != "" {
			headers = []string{"KV-Cursor", cursor}
		}
		m := request(t, nc, "kv.keys", "", headers...)
		got = append(got, strings.Split(string(m.Data), "\n")...)
		if cursor = m.Header.Get(bus.HeaderCursor); cursor == "" {
			if pages < 3 {
				t.Errorf("all keys came in %d pages of at most 6 KiB", pages)
			}
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the pages have %d keys, want %d in order", len(got), len(want))
	}
}

func TestWithoutReplySubject(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	events := store.Watch(ctx, kv.WatchOptions{})
	if err := nc.Publish("kv.set.color", []byte("blue")); err != nil {
		t.Fatal(err)
	}
	for event, err := range events {
		if err != nil || event.Key != "color" || event.Value != "blue" {
			t.Fatalf("the event is %+v, %v", event, err)
		}
		return
	}
}

// Headers that the client library can't read must not be taken for none.
func TestBrokenHeaders(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	answers, err := nc.SubscribeSync("answers")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	header := "NATS/1.0\r\nKV-Expected-Revision 7\r\n\r\n" // no colon
	rawPublish(t, s, fmt.Sprintf("HPUB kv.set.color answers %d %d\r\n%sblue\r\n", len(header), len(header)+4, header))
	m, err := answers.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Header.Get(bus.HeaderError); got != "invalid_argument" {
		t.Errorf("broken headers are answered by %q %q", got, m.Data)
	}
	if _, err := kv.Of(store).Get(t.Context(), "color"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("the request was carried out without its headers: %v", err)
	}
}

// Literal wildcards in a subject reach the service; they are no keys.
func TestWildcardsInSubjects(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	for _, subject := range []string{"kv.set.*", "kv.set.a.>", "kv.clear.*", "kv.keys.>"} {
		expect(t, nc, subject, "x", "!invalid_key")
	}
}

func TestValueLargerThanTheBusCarries(t *testing.T) {
	s := bustest.StartServer(t, server.Options{MaxPayload: 64 << 10})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	var info bus.Info
	if err := json.Unmarshal(request(t, nc, "kv.info", "").Data, &info); err != nil {
		t.Fatal(err)
	}
	limit := info.MaxValueSize
	if limit <= 0 || limit >= 64<<10 {
		t.Fatalf("the effective limit is %d on a bus that carries %d", limit, 64<<10)
	}
	expect(t, nc, "kv.set.fits", strings.Repeat("x", int(limit)), "1")
	expect(t, nc, "kv.set.large", strings.Repeat("x", int(limit)+1), "!value_too_large")
	if got := len(request(t, nc, "kv.get.fits", "").Data); got != int(limit) {
		t.Errorf("%d of %d bytes came back", got, limit)
	}
	// A value that came in by another way is told as what it is.
	if _, err := kv.Of(store).Set(t.Context(), "direct", strings.Repeat("x", 100<<10)); err != nil {
		t.Fatal(err)
	}
	expect(t, nc, "kv.get.direct", "", "!value_too_large")
	answers := stream(t, nc, "kv.scan")
	if got := answers[len(answers)-1].Header.Get(bus.HeaderError); got != "value_too_large" {
		t.Errorf("a scan over a value too large ends with %q", got)
	}
}

// A gated store holds back commands until the gate is opened; reads of the key
// "panic" panic.
type gated struct {
	kv.Store
	entered chan string
	gate    chan struct{}
}

func (g *gated) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	g.entered <- cmd.Key
	<-g.gate
	return g.Store.Do(ctx, cmd)
}

func (g *gated) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	if key == "panic" {
		panic("as the test wants")
	}
	return g.Store.Get(ctx, key, opts)
}

func startGated(t *testing.T, s *server.Server, opts service.Options) (*service.Service, *gated) {
	t.Helper()
	g := &gated{Store: memory.New(memory.Options{}), entered: make(chan string, 1000), gate: make(chan struct{})}
	t.Cleanup(func() { g.Close() })
	opts.ClaimWait = time.Millisecond
	svc, err := service.Start(t.Context(), bustest.Connect(t, s, nats.InProcessServer(s)), g, opts)
	if err != nil {
		t.Fatal(err)
	}
	return svc, g
}

func TestOverload(t *testing.T) {
	tests := []struct {
		name string
		opts service.Options
		body string
	}{
		{"by number", service.Options{MaxPending: 4}, "x"},
		{"by bytes", service.Options{MaxPendingBytes: 4500}, strings.Repeat("x", 1000)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := bustest.StartServer(t, server.Options{})
			svc, g := startGated(t, s, test.opts)
			nc := bustest.Connect(t, s)
			send := func(key string) *nats.Subscription {
				inbox := nc.NewRespInbox()
				sub, err := nc.SubscribeSync(inbox)
				if err != nil {
					t.Fatal(err)
				}
				if err := nc.PublishRequest("kv.set."+key, inbox, []byte(test.body)); err != nil {
					t.Fatal(err)
				}
				return sub
			}
			first := send("first")
			<-g.entered // one is under way, the queue is empty
			var waiting []*nats.Subscription
			for i := range 3 {
				waiting = append(waiting, send(fmt.Sprint("waits", i)))
			}
			refused := send("refused")
			m, err := refused.NextMsg(patience)
			if err != nil {
				t.Fatalf("the refusal waits for the queue: %v", err)
			}
			if got := m.Header.Get(bus.HeaderError); got != "overloaded" {
				t.Errorf("past the bound the answer is %q", got)
			}
			expect(t, nc, "kv.get.refused", "", "!not_found") // other operations go on
			close(g.gate)
			for _, sub := range append(waiting, first) {
				if m, err := sub.NextMsg(patience); err != nil || m.Header.Get(bus.HeaderError) != "" {
					t.Errorf("a request that was taken is answered by %v, %v", m, err)
				}
			}
			set := endpoint(t, svc.Stats(), "set")
			if set.NumRequests != 5 || set.NumErrors != 1 || !strings.Contains(set.LastError, "overloaded") {
				t.Errorf("the statistics are %+v", set)
			}
		})
	}
}

func endpoint(t *testing.T, stats micro.Stats, name string) *micro.EndpointStats {
	t.Helper()
	for _, e := range stats.Endpoints {
		if e.Name == name {
			return e
		}
	}
	t.Fatalf("no endpoint %s", name)
	return nil
}

func TestPanic(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, g := startGated(t, s, service.Options{})
	close(g.gate)
	nc := bustest.Connect(t, s)
	expect(t, nc, "kv.get.panic", "", "!internal")
	expect(t, nc, "kv.set.color", "blue", "1")
	expect(t, nc, "kv.get.color", "", "blue")
	if get := endpoint(t, svc.Stats(), "get"); get.NumErrors != 1 || get.NumRequests != 2 {
		t.Errorf("the statistics are %+v", get)
	}
}

func TestStopAnswersWhatWasTaken(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, g := startGated(t, s, service.Options{})
	nc := bustest.Connect(t, s)
	inbox := nc.NewRespInbox()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const requests = 100
	for i := range requests {
		if err := nc.PublishRequest(fmt.Sprint("kv.set.k", i), inbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	<-g.entered // the requests have reached the service
	var stopped sync.WaitGroup
	stopped.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := svc.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	close(g.gate)
	stopped.Wait()
	for i := range requests {
		m, err := answers.NextMsg(patience)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if got := string(m.Data); got != strconv.Itoa(i+1) {
			t.Fatalf("answer %d is %q: not in order", i, got)
		}
	}
	if _, err := nc.Request("kv.get.k1", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestStopGivesUpInTime(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, g := startGated(t, s, service.Options{})
	defer close(g.gate)
	nc := bustest.Connect(t, s)
	if err := nc.Publish("kv.set.k", nil); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := svc.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stop that can't end returns %v", err)
	}
}

// Commands of one connection on one operation take effect as they were sent.
func TestOrder(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	_, store := startService(t, s, memory.Options{}, service.Options{})
	nc := bustest.Connect(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	events := store.Watch(ctx, kv.WatchOptions{})
	const writes = 2000
	for i := range writes {
		if err := nc.Publish("kv.set.k", []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	next := 0
	for event, err := range events {
		if err != nil || event.Value != strconv.Itoa(next) {
			t.Fatalf("write %d is %q, %v", next, event.Value, err)
		}
		if next++; next == writes {
			return
		}
	}
}
