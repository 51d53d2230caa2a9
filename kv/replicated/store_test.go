package replicated_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

const patience = 30 * time.Second

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// state describes all of a store that a client can see, once nothing expires in
// the near future.
func state(t *testing.T, store kv.Store) string {
	t.Helper()
	ctx := bounded(t)
	expires := func(e kv.Entry) bool {
		return !e.ExpiresAt.IsZero() && e.ExpiresAt.Before(time.Now().Add(time.Minute))
	}
	for {
		page, err := store.Scan(ctx, kv.Query{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(page.Entries, expires) {
			break
		}
	}
	// What has expired is removed by the time of the next record.
	if _, err := store.Info(ctx); err != nil {
		t.Fatal(err)
	}
	page, err := store.Scan(ctx, kv.Query{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := store.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %d %d %+v %+v", info.Revision, info.Keys, info.Bytes, info.Limits, page)
}

// differ shows where two states begin to differ; it is empty if they don't.
func differ(got, want string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			from := max(0, i-20)
			return fmt.Sprintf("from byte %d on it is %.120s, want %.120s", i, got[from:], want[from:])
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("it has %d bytes, want %d", len(got), len(want))
	}
	return ""
}

// What was answered is there after the worker and its server are started anew.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	var before string
	for round := range 3 {
		s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: dir})
		store := open(t, s, replicated.Options{Limits: kv.Limits{MaxKeys: 100}})
		if round > 0 {
			if diff := differ(state(t, store), before); diff != "" {
				t.Fatalf("after the restart the state is another: %s", diff)
			}
		}
		h := kv.Of(store)
		for i := range 50 {
			if _, err := h.Set(bounded(t), fmt.Sprint("k", i), fmt.Sprint(round), kv.WithTTL(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.Increment(bounded(t), "rounds", 1); err != nil {
			t.Fatal(err)
		}
		before = state(t, store)
		store.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// Workers that share a log share the state, each command counts once, and a
// linearizable read on one sees what another has answered.
func TestWorkersShareState(t *testing.T) {
	s := startServer(t)
	workers := []*replicated.Store{open(t, s, replicated.Options{}), open(t, s, replicated.Options{}), open(t, s, replicated.Options{})}
	const increments = 200
	var clients sync.WaitGroup
	for _, worker := range workers {
		clients.Go(func() {
			for range increments {
				if _, err := kv.Of(worker).Increment(t.Context(), "n", 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	for i := range 100 {
		value := fmt.Sprint(i)
		if _, err := kv.Of(workers[i%3]).Set(bounded(t), "k", value); err != nil {
			t.Fatal(err)
		}
		if entry, err := kv.Of(workers[(i+1)%3]).Get(bounded(t), "k"); err != nil || entry.Value != value {
			t.Fatalf("after %s was answered another worker reads %q, %v", value, entry.Value, err)
		}
	}
	want := state(t, workers[0])
	for _, worker := range workers {
		if entry, err := kv.Of(worker).Get(bounded(t), "n"); err != nil || entry.Value != fmt.Sprint(3*increments) {
			t.Errorf("%d increments make %q, %v", 3*increments, entry.Value, err)
		}
		if diff := differ(state(t, worker), want); diff != "" {
			t.Errorf("the workers' states differ: %s", diff)
		}
	}
}

// A deadline is acted on without traffic, once, whatever the number of workers;
// without deadlines nothing is written. How late it may be, the conformance suite
// says, which takes the best of many.
func TestDeadlineWithoutTraffic(t *testing.T) {
	s := startServer(t)
	workers := []*replicated.Store{open(t, s, replicated.Options{}), open(t, s, replicated.Options{})}
	events := workers[1].Watch(bounded(t), kv.WatchOptions{})
	if _, err := kv.Of(workers[0]).Set(bounded(t), "k", "v", kv.WithTTL(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var deadline time.Time
	for event, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if event.Kind == kv.EventSet {
			deadline = event.ExpiresAt
			continue
		}
		if late := event.Time.Sub(deadline); event.Kind != kv.EventExpire || late < 0 {
			t.Errorf("%v came %v after the deadline", event.Kind, late)
		}
		break
	}
	for _, worker := range workers {
		if info, err := worker.Info(bounded(t)); err != nil || info.Revision != 2 {
			t.Errorf("one set and its expiry make revision %d, %v", info.Revision, err)
		}
	}
}

func TestForeignStream(t *testing.T) {
	s := startServer(t)
	nc := bustest.Connect(t, s)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(bounded(t), jetstream.StreamConfig{Name: "KVBUS_kv", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	_, err = replicated.Open(bounded(t), nc, replicated.Options{})
	if !errors.Is(err, kv.ErrInvalidArgument) {
		t.Errorf("on somebody else's stream: %v", err)
	}
}

// Garbage in the log is never passed over.
func TestDamagedRecord(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{})
	nc := bustest.Connect(t, s)
	if err := nc.Publish("$KVBUS.kv.log", []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-store.Failed():
		if err == nil {
			t.Error("it failed without an error")
		}
	case <-time.After(patience):
		t.Fatal("garbage in the log goes unnoticed")
	}
	if _, err := kv.Of(store).Get(bounded(t), "k"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a store on a damaged log answers %v", err)
	}
	if _, err := replicated.Open(bounded(t), nc, replicated.Options{}); err == nil {
		t.Error("a store opens on a damaged log")
	}
}

// Commands that wait while a batch is under way are appended together.
func TestBatches(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{})
	const commands = 500
	before := store.Applied()
	answers := make(chan error, commands)
	ctx := bounded(t)
	for range commands {
		store.Submit(ctx, kv.Command{Op: kv.OpIncrement, Key: "n", Delta: 1}, func(_ kv.Result, err error) { answers <- err })
	}
	for range commands {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	if records := store.Applied() - before; records > commands/5 {
		t.Errorf("%d commands take %d records", commands, records)
	}
}

// Without JetStream a command fails in time, and succeeds when it is back.
func TestServerAway(t *testing.T) {
	dir := t.TempDir()
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: dir})
	store, proxy := openThrough(t, s, replicated.Options{Timeout: 500 * time.Millisecond})
	h := kv.Of(store)
	_, err := h.Set(bounded(t), "n", "1")
	for errors.Is(err, kv.ErrTimeout) { // as it may be on a busy machine
		_, err = h.Set(bounded(t), "n", "1")
	}
	if err != nil {
		t.Fatal(err)
	}

	most := int64(2) // what timed out may have counted
	failed := func(err error) {
		t.Helper()
		switch {
		case errors.Is(err, kv.ErrTimeout):
			most++
		case !errors.Is(err, kv.ErrUnavailable):
			t.Fatal(err)
		}
	}
	proxy.Redirect("127.0.0.1:1") // nobody is there
	_, err = h.Increment(bounded(t), "n", 1)
	failed(err)
	if _, err := h.Get(bounded(t), "n"); !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrTimeout) {
		t.Errorf("a linearizable read without a server: %v", err)
	}
	if entry, err := store.Get(bounded(t), "n", kv.ReadOptions{Consistency: kv.Eventual}); err != nil || entry.Value != "1" {
		t.Errorf("an eventual read without a server: %q, %v", entry.Value, err)
	}

	proxy.Redirect(s.Addr().String())
	for {
		n, err := h.Increment(bounded(t), "n", 1)
		if err == nil {
			if n < 2 || n > most {
				t.Errorf("the next increment makes %d; want 2 to %d", n, most)
			}
			return
		}
		failed(err)
	}
}

// Reads that ask for nothing else are as the options say: without a server too, where
// they are eventual.
func TestReadsAreEventualByDefault(t *testing.T) {
	s := startServer(t)
	store, proxy := openThrough(t, s, replicated.Options{Timeout: 200 * time.Millisecond, Consistency: kv.Eventual})
	h := kv.Of(store)
	_, err := h.Set(bounded(t), "k", "v")
	for errors.Is(err, kv.ErrTimeout) { // as it may be on a busy machine
		_, err = h.Set(bounded(t), "k", "v")
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy.Redirect("127.0.0.1:1") // nobody is there
	if entry, err := store.Get(bounded(t), "k", kv.ReadOptions{Consistency: kv.Linearizable}); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a linearizable read without a server: %q, %v", entry.Value, err)
	}
	if entry, err := h.Get(bounded(t), "k"); err != nil || entry.Value != "v" {
		t.Errorf("a read without a server: %q, %v", entry.Value, err)
	}
}

// Breaking the connection again and again loses no increment that was answered
// and counts none twice.
func TestBrokenConnections(t *testing.T) {
	s := startServer(t)
	store, proxy := openThrough(t, s, replicated.Options{Timeout: patience})
	const clients, each = 8, 200
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		count   int
	)
	for range clients {
		running.Go(func() {
			for range each {
				if _, err := kv.Of(store).Increment(bounded(t), "n", 1); err != nil {
					t.Error(err)
				}
				mu.Lock()
				if count++; count%(clients*each/8) == 0 {
					proxy.Cut()
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	if entry, err := kv.Of(store).Get(bounded(t), "n"); err != nil || entry.Value != fmt.Sprint(clients*each) {
		t.Errorf("%d increments make %s, %v", clients*each, entry.Value, err)
	}
}
