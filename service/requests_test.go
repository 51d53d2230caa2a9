package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/kv/replicated"
	"kvbus/service"
)

// Whoever may ask for something must not have the answer written, by a worker that
// may do everything, where they may not write.
func TestReplySubjectsOfWorkers(t *testing.T) {
	servers := keeping(t, bus.DefaultPrefix, server.Options{})
	svc, _ := startService(t, servers[0], memory.Options{}, service.Options{Relayed: true})
	awaitRelayed(t, servers[1])
	relay := startRelay(t, servers[1])
	defer relay.Stop(t.Context())
	clients := []*nats.Conn{bustest.Connect(t, servers[0]), bustest.Connect(t, servers[1])}
	expect(t, clients[0], "kv.set.mine", "evil", "1")

	replies := []string{"kv.set.yours", "kv.incr.yours", "kv.clear", "kv.events.yours", "$KVBUS.$relay.kv.set.yours", "$JS.API.STREAM.PURGE.s"}
	spies := []*nats.Conn{bustest.Connect(t, servers[0]), bustest.Connect(t, servers[1])}
	var heard []*nats.Subscription
	for _, spy := range spies {
		for _, subject := range []string{"kv.events.>", "$JS.API.>"} {
			sub, err := spy.SubscribeSync(subject)
			if err != nil {
				t.Fatal(err)
			}
			heard = append(heard, sub)
		}
	}
	flush := func() {
		for _, spy := range spies {
			if err := spy.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	flush()
	for _, nc := range clients {
		for _, reply := range replies {
			for _, subject := range []string{"kv.get.mine", "kv.get.nothing", "kv.get.=x", "kv.set.mine", "kv.scan", "kv.info", "$SRV.PING", "$SRV.INFO.kvbus"} {
				if err := nc.PublishRequest(subject, reply, []byte("worse")); err != nil {
					t.Fatal(err)
				}
			}
		}
		// What follows on one connection and one subject comes later.
		expect(t, nc, "kv.get.mine", "", "evil")
		expect(t, nc, "kv.scan.none", "", "")
		request(t, nc, "$SRV.PING", "")
		request(t, nc, "kv.set.mine", "evil")
	}
	for _, nc := range clients {
		expect(t, nc, "kv.keys", "", "mine")
		expect(t, nc, "kv.get.mine", "", "evil")
	}
	flush()
	for _, sub := range heard {
		if m, err := sub.NextMsg(time.Millisecond); err == nil {
			t.Errorf("%s got %q", m.Subject, m.Data)
		}
	}
	if got := endpoint(t, svc.Stats(), "get"); got.NumErrors != 3*len(replies) || !strings.Contains(got.LastError, "reply subject") {
		t.Errorf("the statistics tell of %d errors, the last is %q", got.NumErrors, got.LastError)
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
	if m := request(t, nc, "kv.ttl.color", ""); !strings.HasPrefix(string(m.Data), "59m") {
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
		key := fmt.Sprintf("%03d%s", i, strings.Repeat("k", i%50))
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
	// Who asks for more than that has as many at a time.
	most := request(t, nc, "kv.keys", "").Header.Get(bus.HeaderCount)
	if count := request(t, nc, "kv.keys", "", bus.HeaderLimit, "1000000").Header.Get(bus.HeaderCount); count != most {
		t.Errorf("a page of up to a million keys has %s, one without a limit %s", count, most)
	}
}

// A limit on keys holds where a message carries next to nothing, and a key that does
// not fit is told as what it is.
func TestKeysInTinyMessages(t *testing.T) {
	for maxPayload, want := range map[int32]string{4102: "k0\nk1", 2 << 10: "k0", 200: "k0"} {
		t.Run(fmt.Sprint(maxPayload), func(t *testing.T) {
			s := bustest.StartServer(t, server.Options{MaxPayload: maxPayload})
			_, store := startService(t, s, memory.Options{}, service.Options{})
			nc := bustest.Connect(t, s)
			for _, key := range []string{"k0", "k1", "k2", strings.Repeat("x", kv.MaxKeyLength)} {
				if _, err := kv.Of(store).Set(t.Context(), key, ""); err != nil {
					t.Fatal(err)
				}
			}
			expect(t, nc, "kv.keys", "", want, bus.HeaderLimit, "2")
			var got []string
			for cursor := ""; len(got) < 3; {
				m := request(t, nc, "kv.keys.k", "", bus.HeaderCursor, cursor)
				got = append(got, strings.Split(string(m.Data), "\n")...)
				cursor = m.Header.Get(bus.HeaderCursor)
			}
			if list := strings.Join(got, " "); list != "k0 k1 k2" {
				t.Errorf("the keys are %s", list)
			}
			if maxPayload < kv.MaxKeyLength {
				expect(t, nc, "kv.keys.x", "", "!value_too_large")
			}
		})
	}
}

// Where the reply subject is so long that the line of an answer, which has the sizes
// beside it, is longer than the server takes, the server ends the connection of who
// answers. Anybody who may ask could end a worker so.
func TestLongReplySubject(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, store := startService(t, s, memory.Options{}, service.Options{})
	if _, err := kv.Of(store).Set(t.Context(), strings.Repeat("k", 100), strings.Repeat("v", 200_000)); err != nil {
		t.Fatal(err)
	}
	longest := strings.Repeat("r", server.MAX_CONTROL_LINE_SIZE-len("kv.scan  0"))
	rawPublish(t, s, "PUB kv.scan "+longest+" 0\r\n\r\n")
	nc := bustest.Connect(t, s)
	for endpoint(t, svc.Stats(), "scan").NumErrors == 0 {
		expect(t, nc, "kv.exists.color", "", "false")
	}
	expect(t, nc, "kv.exists.color", "", "false")
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

// A worker of a shared store can start while the log takes nothing. What needs
// the log has to wait, as kv.info, which is as fresh as any read.
func TestStartWhileTheLogTakesNothing(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	store, err := replicated.Open(t.Context(), bustest.Connect(t, s), replicated.Options{Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := s.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Start(t.Context(), bustest.Connect(t, s), store, service.Options{ClaimWait: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	nc := bustest.Connect(t, s)
	expect(t, nc, "kv.info", "", "!unavailable")
	expect(t, nc, "kv.get.color", "", "!not_found", "KV-Consistency", "eventual")
	if info, err := bus.DecodeInfo(request(t, nc, "kv.info", "", "KV-Consistency", "eventual")); err != nil || info.Store != "replicated" {
		t.Errorf("what the worker knows is %+v, %v", info, err)
	}
}
