package replicated_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// An answered command has a request id.
type answered struct {
	cmd    kv.Command
	result kv.Result
}

// sendNumbered carries out n increments with ids of their own.
func sendNumbered(t *testing.T, store kv.Store, sent []answered, n int) []answered {
	t.Helper()
	for range n {
		i := len(sent)
		cmd := kv.Command{Op: kv.OpIncrement, Key: fmt.Sprint("k", i%7), Delta: int64(i), TTL: time.Hour, RequestID: fmt.Sprint("id", i)}
		result, err := store.Do(bounded(t), cmd)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, answered{cmd, result})
	}
	return sent
}

// Workers that read the log from its beginning, or from a snapshot, remember
// the same requests.
func TestRepeatsAfterSnapshots(t *testing.T) {
	s := startServer(t)
	const remembered = 100
	opts := keepsLittle
	opts.Limits = kv.Limits{MaxRequestIDs: remembered, MaxRequestAge: time.Hour}
	first := open(t, s, opts)
	sent := sendNumbered(t, first, nil, 120)
	snapshot(t, first)
	sent = sendNumbered(t, first, sent, 30)
	middle := open(t, s, opts)
	snapshot(t, first)
	sent = sendNumbered(t, middle, sent, 30)
	stores := map[string]*replicated.Store{"first": first, "middle": middle, "last": open(t, s, opts)}
	want := state(t, first)
	for name, store := range stores {
		for _, a := range sent[len(sent)-remembered:] {
			if result, err := store.Do(bounded(t), a.cmd); err != nil || result != a.result {
				t.Errorf("repeat of %s by the %s worker: %+v, %v; the first answer was %+v", a.cmd.RequestID, name, result, err, a.result)
			}
		}
	}
	if diff := differ(state(t, first), want); diff != "" {
		t.Errorf("repeats changed the state: %s", diff)
	}

	forgotten := sent[len(sent)-remembered-1]
	if result, err := stores["last"].Do(bounded(t), forgotten.cmd); err != nil || result == forgotten.result {
		t.Errorf("a repeat past the limit: %+v, %v", result, err)
	}
	want = state(t, first)
	for name, store := range stores {
		if diff := differ(state(t, store), want); diff != "" {
			t.Errorf("the %s worker has another state: %s", name, diff)
		}
	}
}

// What was appended twice, with a snapshot in between, counts once for a worker that
// begins with the snapshot, too.
func TestRecordsRepeatedAfterASnapshot(t *testing.T) {
	s := startServer(t)
	first := open(t, s, keepsLittle)
	const increments = 3
	for range increments {
		if _, err := kv.Of(first).Increment(bounded(t), "n", 1); err != nil {
			t.Fatal(err)
		}
	}
	snapshot(t, first)
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	_, stream := objects(t, s)
	for sequence := range first.Applied() {
		m, err := stream.GetMsg(bounded(t), sequence+1)
		if err == nil {
			_, err = js.PublishMsg(bounded(t), &nats.Msg{Subject: m.Subject, Data: m.Data})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, store := range map[string]*replicated.Store{"first": first, "second": open(t, s, keepsLittle)} {
		if entry, err := kv.Of(store).Get(bounded(t), "n"); err != nil || entry.Value != fmt.Sprint(increments) {
			t.Errorf("after %d increments the %s worker has %q, %v", increments, name, entry.Value, err)
		}
	}
}

// Requests are remembered over a restart of worker and server.
func TestRepeatAfterRestart(t *testing.T) {
	dir := t.TempDir()
	var sent []answered
	for range 3 {
		s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: dir})
		store := open(t, s, keepsLittle)
		for _, a := range sent {
			if result, err := store.Do(bounded(t), a.cmd); err != nil || result != a.result {
				t.Errorf("repeat of %s: %+v, %v; the first answer was %+v", a.cmd.RequestID, result, err, a.result)
			}
		}
		sent = sendNumbered(t, store, sent, 10)
		snapshot(t, store)
		sent = sendNumbered(t, store, sent, 10)
		store.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// What one worker did not answer is repeated by another, and counts once.
func TestRepeatByAnotherWorker(t *testing.T) {
	s := startServer(t)
	failing, proxy := openThrough(t, s, replicated.Options{Timeout: 200 * time.Millisecond})
	other := open(t, s, replicated.Options{})
	const increments, rounds = 20, 5
	unanswered := 0
	for round := range rounds {
		outcomes := make(chan error, increments)
		commands := make([]kv.Command, increments)
		for i := range commands {
			commands[i] = kv.Command{Op: kv.OpIncrement, Key: "n", Delta: 1, RequestID: fmt.Sprint(round, ".", i)}
			failing.Submit(bounded(t), commands[i], func(_ kv.Result, err error) { outcomes <- err })
			if i == increments/2 {
				proxy.Redirect("127.0.0.1:1") // nobody is there
			}
		}
		for range commands {
			if err := <-outcomes; err != nil {
				if unanswered++; !errors.Is(err, kv.ErrTimeout) && !errors.Is(err, kv.ErrUnavailable) {
					t.Error(err)
				}
			}
		}
		// All are repeated, those that were answered too.
		for _, cmd := range commands {
			if _, err := other.Do(bounded(t), cmd); err != nil {
				t.Error(err)
			}
		}
		proxy.Redirect(s.Addr().String())
		for _, store := range []*replicated.Store{failing, other} {
			ctx := bounded(t)
			entry, err := kv.Of(store).Get(ctx, "n")
			for err != nil && ctx.Err() == nil { // it is not connected yet
				entry, err = kv.Of(store).Get(ctx, "n")
			}
			if err != nil || entry.Value != fmt.Sprint((round+1)*increments) {
				t.Fatalf("after round %d of %d increments there are %q, %v", round, increments, entry.Value, err)
			}
		}
	}
	if unanswered == 0 {
		t.Error("all was answered: nothing was tried")
	}
}
