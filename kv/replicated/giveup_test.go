package replicated

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// A write that was given up may have taken effect, a read of the same batch may
// just be asked again.
func TestGivenUp(t *testing.T) {
	for _, reason := range []error{kv.ErrTimeout, kv.ErrUnavailable, kv.ErrClosed} {
		var p pipeline
		var written, read error
		p.give(
			[]proposal{{done: func(_ kv.Result, err error) { written = err }}},
			[]reader{{done: func(err error) { read = err }}},
			fmt.Errorf("%w: for a reason", reason),
		)()
		if !errors.Is(written, reason) {
			t.Errorf("after %v a write fails with %v", reason, written)
		}
		if !errors.Is(read, kv.ErrUnavailable) || errors.Is(read, kv.ErrTimeout) {
			t.Errorf("after %v a read fails with %v", reason, read)
		}
	}
}

// Each waits for as long as it may, and no longer for having waited for another batch
// first. Who is told that nothing was done is not appended again.
func TestGivenUpEach(t *testing.T) {
	const limit = time.Minute
	old, young := time.Now().Add(-2*limit), time.Now()
	for name, tt := range map[string]struct {
		second          time.Time // since when the second ones wait
		sends, refusals int
		want            error
		stays, requeued bool
	}{
		"unknown":      {young, 2, 1, kv.ErrTimeout, true, false},
		"refused":      {young, 2, 2, kv.ErrUnavailable, false, true},
		"all of them":  {old, 2, 1, kv.ErrTimeout, false, false},
		"all, refused": {old, 2, 2, kv.ErrUnavailable, false, false},
		"none of them": {young, 0, 0, nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string][]error{}
			write := func(name string, since time.Time) proposal {
				return proposal{kv.Command{Key: name}, func(_ kv.Result, err error) { answers[name] = append(answers[name], err) }, since}
			}
			read := func(name string, since time.Time) reader {
				return reader{func(err error) { answers[name] = append(answers[name], err) }, since}
			}
			first := old
			if tt.want == nil {
				first = young
			}
			p := pipeline{
				store: &Store{opts: Options{Timeout: limit}, logger: slog.New(slog.DiscardHandler)},
				flight: &flight{
					number: 7, sends: tt.sends, refusals: tt.refusals, reason: errors.New("a reason"), due: time.Now().Add(limit),
					proposals: []proposal{write("write 1", first), write("write 2", tt.second)},
					readers:   []reader{read("read 1", first), read("read 2", tt.second)},
				},
				queue:    []proposal{write("later", young)},
				waiting:  5,
				launches: make(chan struct{}, 1),
			}
			p.look()
			defer p.close(kv.ErrClosed)
			if told := !p.failing.IsZero(); told != (tt.want != nil) {
				t.Errorf("the operator is told that requests fail: %v", told)
			}

			wanted := map[string]error{"write 1": tt.want, "read 1": kv.ErrUnavailable}
			if tt.second.Equal(old) {
				wanted["write 2"], wanted["read 2"] = tt.want, kv.ErrUnavailable
			}
			if tt.want == nil {
				clear(wanted)
			}
			for name, want := range wanted {
				if got := answers[name]; len(got) != 1 || !errors.Is(got[0], want) {
					t.Errorf("%s is answered with %v; want %v", name, got, want)
				}
			}
			if len(answers) != len(wanted) {
				t.Errorf("%d are answered: %v", len(answers), answers)
			}
			if p.waiting != 5-len(wanted) {
				t.Errorf("%d wait; want %d", p.waiting, 5-len(wanted))
			}
			if (p.flight != nil) != tt.stays {
				t.Errorf("the batch is under way: %v", p.flight)
			}
			if requeued := len(p.queue) == 2 && p.queue[0].cmd.Key == "write 2" && len(p.readers) == 1; requeued != tt.requeued {
				t.Errorf("%d writes and %d reads wait for the next batch", len(p.queue), len(p.readers))
			}
			clear(answers)
			p.complete(7, []outcome{{result: kv.Result{Number: 1}}, {result: kv.Result{Number: 2}}})
			if tt.stays && len(answers["write 2"])+len(answers["read 2"]) != 2 {
				t.Errorf("when it is seen after all, %v are answered", answers)
			}
			if len(answers["write 1"]) > 0 == (tt.want != nil) {
				t.Errorf("the first write is answered with %v", answers["write 1"])
			}
		})
	}
}

// What comes of a batch that was given up says nothing of the one that is under way.
// Those of that one who still wait get their own answers.
func TestAnswersOfAnotherBatch(t *testing.T) {
	answers := map[string][]int64{}
	write := func(name string) proposal {
		return proposal{kv.Command{Key: name}, func(r kv.Result, _ error) { answers[name] = append(answers[name], r.Number) }, time.Now()}
	}
	p := pipeline{
		store:    &Store{logger: slog.New(slog.DiscardHandler)},
		inbox:    "inbox",
		flight:   &flight{number: 7, sends: 1, given: 1, proposals: []proposal{write("given up"), write("second"), write("third")}},
		waiting:  2,
		failing:  time.Now().Add(-time.Hour),
		silent:   time.Now(),
		launches: make(chan struct{}, 1),
	}
	defer p.close(kv.ErrClosed)
	refusal := func(number int) *nats.Msg {
		return &nats.Msg{Subject: fmt.Sprintf("inbox.%d", number), Header: nats.Header{"Status": {"503"}}}
	}
	p.acknowledged(refusal(6))
	if p.flight.undone() {
		t.Error("after the refusal of another batch this one did nothing for certain")
	}
	p.complete(6, []outcome{{result: kv.Result{Number: 61}}, {result: kv.Result{Number: 62}}, {result: kv.Result{Number: 63}}})
	if len(answers) > 0 || p.flight == nil {
		t.Fatalf("when another batch is seen %v are answered", answers)
	}
	p.acknowledged(refusal(7))
	if !p.flight.undone() {
		t.Error("after its only refusal a batch may have done something")
	}
	p.complete(7, []outcome{{result: kv.Result{Number: 71}}, {result: kv.Result{Number: 72}}, {result: kv.Result{Number: 73}}})
	if got := fmt.Sprint(answers); got != "map[second:[72] third:[73]]" {
		t.Errorf("the answers are %s", got)
	}
	if p.waiting != 0 {
		t.Errorf("%d wait when all are answered", p.waiting)
	}
	if silence := p.silence(); silence != 0 {
		t.Errorf("JetStream is silent for %v when a batch is seen", silence)
	}
}

// The silence of JetStream is that between the first and the last batch that got no
// answer, and over with the first that is taken. A refusal is no silence.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := pipeline{store: &Store{logger: slog.New(slog.NewTextHandler(&log, nil))}}
		after := func(what string, want time.Duration) {
			t.Helper()
			if got := p.silence(); got != want {
				t.Errorf("%s the silence has %v, want %v", what, got, want)
			}
			time.Sleep(time.Minute)
		}
		after("before all", 0)
		for range 2 {
			p.fails(kv.ErrUnavailable)
			after("after a refusal", 0)
			p.succeeds()
			p.succeeds()
			after("when requests are answered", 0)
			p.fails(kv.ErrTimeout)
			after("after one without an answer", 0)
			p.fails(kv.ErrTimeout)
			after("after two", time.Minute)
			p.fails(kv.ErrUnavailable)
			after("after two and a refusal", time.Minute)
			p.succeeds()
			p.succeeds()
			after("when requests are answered again", 0)
		}
		for line, want := range map[string]int{"requests fail": 4, "requests are answered again": 4} {
			if got := strings.Count(log.String(), line); got != want {
				t.Errorf("the log says %d times that %s, want %d", got, line, want)
			}
		}
	})
}
