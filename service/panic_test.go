package service_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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

func TestPanic(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	var log bytes.Buffer
	svc, g := startGated(t, s, service.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	close(g.gate)
	nc := bustest.Connect(t, s)
	expect(t, nc, "kv.get.panic", "", "!internal")
	expect(t, nc, "kv.get.nothing", "", "!not_found")
	expect(t, nc, "kv.set.color", "blue", "1")
	expect(t, nc, "kv.get.color", "", "blue")
	if err := svc.Stop(t.Context()); err != nil { // when all are counted
		t.Error(err)
	}
	if get := endpoint(t, svc.Stats(), "get"); get.NumErrors != 2 || get.NumRequests != 3 {
		t.Errorf("the statistics are %+v", get)
	}
	// What the service itself has broken is in the log, and no other answer.
	if lines := log.String(); strings.Count(lines, "request failed") != 1 || !strings.Contains(lines, "kv.get.panic") {
		t.Errorf("the log has\n%s", lines)
	}
}

// A deferring store answers from goroutines of its own. The key "panic" panics.
type deferring struct{ kv.Store }

func (d *deferring) Submit(ctx context.Context, cmd kv.Command, done func(kv.Result, error)) {
	go func() {
		result, err := d.Do(ctx, cmd)
		if cmd.Key == "panic" {
			err = explosive{}
		}
		done(result, err)
	}()
}

func (d *deferring) Fresh(_ context.Context, _ kv.ReadOptions, done func(error)) { go done(nil) }

func (d *deferring) Get(ctx context.Context, key string, opts kv.ReadOptions) (kv.Entry, error) {
	if key == "panic" {
		panic("as the test wants")
	}
	return d.Store.Get(ctx, key, opts)
}

// An explosive error panics when it is told.
type explosive struct{}

func (explosive) Error() string   { panic("as the test wants") }
func (explosive) Is(e error) bool { return e == kv.ErrConflict }

func TestPanicOnAGoroutineOfTheStore(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := &deferring{memory.New(memory.Options{})}
	defer store.Close()
	svc, err := service.Start(t.Context(), bustest.Connect(t, s), store, service.Options{ClaimWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	nc := bustest.Connect(t, s)
	for range 3 {
		expect(t, nc, "kv.get.panic", "", "!internal")
		expect(t, nc, "kv.set.panic", "", "!internal")
	}
	if err := svc.Stop(t.Context()); err != nil { // when each is counted, and none is under way
		t.Error(err)
	}
	for _, name := range []string{"get", "set"} {
		if stats := endpoint(t, svc.Stats(), name); stats.NumRequests != 3 || stats.NumErrors != 3 || !strings.HasPrefix(stats.LastError, "500:") {
			t.Errorf("the statistics of %s are %+v", name, stats)
		}
	}
}

// A late store panics when it has had its answer sent, or has it sent after it has
// panicked, as its key says.
type late struct {
	kv.Store
	sent sync.WaitGroup
}

func (l *late) Submit(ctx context.Context, cmd kv.Command, done func(kv.Result, error)) {
	result, err := l.Do(ctx, cmd)
	l.answer(cmd.Key, func() { done(result, err) })
}

func (l *late) Fresh(_ context.Context, opts kv.ReadOptions, done func(error)) {
	l.answer(fmt.Sprint(opts.MinRevision), func() { done(nil) })
}

func (l *late) answer(when string, send func()) {
	switch when {
	case "before", "1":
		send()
		panic("as the test wants")
	case "after", "2":
		panicking := make(chan struct{})
		l.sent.Go(func() { <-panicking; send() })
		defer close(panicking)
		panic("as the test wants")
	default:
		send()
	}
}

// A request is answered once, and the worker goes on, whenever the store panics.
func TestPanicBesideAnAnswer(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	store := &late{Store: memory.New(memory.Options{})}
	defer store.Close()
	svc, err := service.Start(t.Context(), bustest.Connect(t, s), store, service.Options{ClaimWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	nc := bustest.Connect(t, s)
	inbox := nc.NewInbox()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	requests := []struct{ subject, minRevision string }{
		{"kv.set.before", ""}, {"kv.set.after", ""}, {"kv.get.before", "1"}, {"kv.get.before", "2"},
	}
	for _, r := range requests {
		m := nats.NewMsg(r.subject)
		m.Reply = inbox
		if r.minRevision != "" {
			m.Header.Set(bus.HeaderMinRevision, r.minRevision)
		}
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		if _, err := answers.NextMsg(patience); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
	}
	expect(t, nc, "kv.set.k", "", "3")
	expect(t, nc, "kv.get.k", "", "")
	store.sent.Wait()
	if err := svc.Stop(t.Context()); err != nil { // when each is counted once
		t.Error(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if again, _, err := answers.Pending(); again > 0 || err != nil {
		t.Errorf("%d more answers came than requests were made, %v", again, err)
	}
	for _, name := range []string{"get", "set"} {
		if stats := endpoint(t, svc.Stats(), name); stats.NumRequests != 3 || stats.NumErrors > 1 {
			t.Errorf("the statistics of %s are %+v", name, stats)
		}
	}
}
