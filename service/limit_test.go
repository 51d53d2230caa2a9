package service_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
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

func TestValueLargerThanTheBusCarries(t *testing.T) {
	s := bustest.StartServer(t, server.Options{MaxPayload: 64 << 10})
	svc, store := startService(t, s, memory.Options{}, service.Options{})
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
	if err := svc.Stop(t.Context()); err != nil { // when all are counted
		t.Error(err)
	}
	if get := endpoint(t, svc.Stats(), "get"); get.NumRequests != 2 || get.NumErrors != 1 || !strings.Contains(get.LastError, "bytes") {
		t.Errorf("the statistics are %+v", get)
	}
}

// A store that takes values of any size has the limit of the bus.
func TestStoreWithoutLimit(t *testing.T) {
	s := bustest.StartServer(t, server.Options{MaxPayload: 64 << 10})
	startService(t, s, memory.Options{Limits: kv.Limits{MaxKeys: 10}}, service.Options{})
	nc := bustest.Connect(t, s)
	info, err := bus.DecodeInfo(request(t, nc, "kv.info", ""))
	if err != nil || info.Limits.MaxValueSize != 0 || info.MaxValueSize <= 0 || info.MaxValueSize >= 64<<10 {
		t.Errorf("the effective limit is %d, that of the store %d, %v", info.MaxValueSize, info.Limits.MaxValueSize, err)
	}
}

// A server whose lines have the least length carries the longest keys on the longest prefix,
// with the longest reply subject; one of dots is the longest in a subject.
func TestLongestLines(t *testing.T) {
	s := bustest.StartServer(t, server.Options{MaxControlLine: int32(service.MaxControlLine)})
	prefix := strings.Repeat("p", bus.MaxPrefixLength)
	subjects, err := bus.NewSubjects(prefix)
	if err != nil {
		t.Fatal(err)
	}
	startService(t, s, memory.Options{}, service.Options{Subjects: subjects})
	nc := bustest.Connect(t, s)
	reply := strings.Repeat("r", bus.MaxReplyLength)
	answers, err := nc.SubscribeSync(reply)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range []string{strings.Repeat("k", kv.MaxKeyLength), strings.Repeat(".", kv.MaxKeyLength)} {
		subject, err := subjects.Subject(bus.OpSet, key)
		if err != nil {
			t.Fatal(err)
		}
		set := nats.NewMsg(subject)
		set.Reply = reply
		set.Header.Set(bus.HeaderTTL, "1h")
		set.Data = make([]byte, 500<<10)
		if err := nc.PublishMsg(set); err != nil {
			t.Fatal(err)
		}
		if answer, err := answers.NextMsg(patience); err != nil || string(answer.Data) != strconv.Itoa(i+1) {
			t.Fatalf("the answer to %.20s… is %v, %v", subject, answer, err)
		}
	}
}

// The log says when the server lowers the limit on values, at the start and at
// another server, and when it no longer does.
func TestLoweredLimitIsLogged(t *testing.T) {
	small := bustest.StartServer(t, server.Options{MaxPayload: 64 << 10})
	smaller := bustest.StartServer(t, server.Options{MaxPayload: 32 << 10})
	large := bustest.StartServer(t, server.Options{MaxPayload: 1 << 20})
	proxy := bustest.StartProxy(t, small.Addr().String())
	nc, err := bustest.Dial(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	store := memory.New(memory.Options{Limits: kv.Limits{MaxValueSize: 100_000}})
	defer store.Close()
	var log bytes.Buffer
	svc, err := service.Start(t.Context(), nc, store, service.Options{
		ClaimWait: time.Millisecond, Logger: slog.New(slog.NewJSONHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	told := func() string {
		defer log.Reset()
		return log.String()
	}
	expectLine := func(level string, effective, maxPayload int) {
		t.Helper()
		var line struct {
			Level        string `json:"level"`
			MaxValueSize int    `json:"max_value_size"`
			Configured   int    `json:"configured"`
			MaxPayload   int    `json:"max_payload"`
		}
		text := told()
		if err := json.Unmarshal([]byte(text), &line); err != nil { // one line, or none is right
			t.Fatalf("the log is %q: %v", text, err)
		}
		if line.Level != level || line.MaxValueSize != effective || line.Configured != 100_000 || line.MaxPayload != maxPayload {
			t.Errorf("the log is %s", text)
		}
	}
	reconnect := func(s *server.Server) {
		t.Helper()
		back := nc.StatusChanged(nats.CONNECTED)
		proxy.Redirect(s.Addr().String())
		<-back
		// The status changes before the connection is made use of.
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := svc.Recheck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	expectLine("WARN", 60<<10, 64<<10)
	reconnect(small)
	if text := told(); text != "" {
		t.Errorf("the same limit is told again: %s", text)
	}
	reconnect(smaller)
	expectLine("WARN", 28<<10, 32<<10)
	reconnect(large)
	expectLine("INFO", 100_000, 1<<20)
}

func TestLimitOfTheStoreIsNothingToTell(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	var log bytes.Buffer
	startService(t, s, memory.Options{Limits: kv.Limits{MaxValueSize: 1000}}, service.Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	if log.Len() > 0 {
		t.Errorf("the log is %s", log.String())
	}
}
