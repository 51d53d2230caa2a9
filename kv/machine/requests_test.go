package machine_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// TestDigestsStayAsTheyAre holds because the digests are in snapshots: a
// machine that made others would not know the requests in them.
func TestDigestsStayAsTheyAre(t *testing.T) {
	m := machine.New(machine.Options{})
	for _, cmd := range []kv.Command{
		{Op: kv.OpSet, Key: "größe", Value: "v", RequestID: "1"},
		{
			Op: kv.OpCompareAndSwap, Key: strings.Repeat("k", kv.MaxKeyLength), Value: strings.Repeat("v", 1<<20), TTL: math.MaxInt64,
			KeepTTL: true, Expect: kv.IfValue("w"), RequestID: strings.Repeat("i", kv.MaxRequestIDLength),
		},
		{Op: kv.OpIncrement, Key: "n", Delta: math.MinInt64, RequestID: "1"},
		{Op: kv.OpDelete, Key: "n", Expect: kv.IfRevision(math.MaxUint64), RequestID: "1"},
		{Op: kv.OpClear, RequestID: "1"},
	} {
		if _, err := m.Apply(1, &cmd); err != nil && !errors.Is(err, kv.ErrConflict) {
			t.Fatal(err)
		}
	}
	want := []string{
		"f0704d612ed5a895697f7b3f3806fc3d d5f272ce143c9aa7169d1f82553c3a38",
		"d2276311c7f5c3d66e65018557f147e4 134a8d9f39b3672ad7d22e46ed3b1506",
		"08d7c3bddb8867b151fb921eff112ccf 3b8b09a418fb7d2721cd9327c04d8717",
		"10451f23ee1ae1d61f8c8229249c2924 648d8c067a0ef036af5015b48cfcbbd4",
		"d8ece62edc87009af3cb3669aed71f7b 005aa50be00c489a6a44978cc2b0b162",
	}
	view := m.View()
	defer view.Close()
	var got []string
	for r := range view.Requests() {
		got = append(got, hex.EncodeToString(r.ID[:])+" "+hex.EncodeToString(r.Content[:]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the digests are\n%s", strings.Join(got, "\n"))
	}
}

// numbered returns an increment with an id of its own.
func numbered(i int) *kv.Command {
	return &kv.Command{Op: kv.OpIncrement, Key: "n", Delta: 1, RequestID: fmt.Sprint(i)}
}

// TestViewsKeepRequests holds views over so many requests that the machine
// forgets those that they show.
func TestViewsKeepRequests(t *testing.T) {
	const kept, requests = 500, 5000
	m := machine.New(machine.Options{Limits: kv.Limits{MaxRequestIDs: kept}})
	views := map[int]*machine.View{}
	for i := range requests {
		if i%317 == 0 {
			views[i] = m.View()
		}
		if _, err := m.Apply(int64(i+1), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, view := range views {
		got := slices.Collect(view.Requests())
		first := max(0, i-kept)
		if len(got) != i-first {
			t.Errorf("the view after %d requests shows %d, want %d", i, len(got), i-first)
		}
		for j, r := range got {
			if r.Number != int64(first+j+1) || r.Time != r.Number {
				t.Errorf("the view after %d requests: request %d is %+v", i, j, r)
			}
		}
		for range view.Requests() {
			break // an iteration may end early
		}
		view.Close()
	}
}

// TestViewOfRequestsBesideWriter reads full blocks of requests while others are
// added after them, for the race detector.
func TestViewOfRequestsBesideWriter(t *testing.T) {
	m := machine.New(machine.Options{})
	var readers sync.WaitGroup
	for i := range 2000 {
		if _, err := m.Apply(1, numbered(i)); err != nil {
			t.Fatal(err)
		}
		if i%16 != 15 {
			continue
		}
		view := m.View()
		readers.Go(func() {
			defer view.Close()
			if n := len(slices.Collect(view.Requests())); n != i+1 {
				t.Errorf("a view of %d requests shows %d", i+1, n)
			}
		})
	}
	readers.Wait()
}

// TestRequestsAreForgottenTogether has the newest of many pass its age too.
func TestRequestsAreForgottenTogether(t *testing.T) {
	m := machine.New(machine.Options{Limits: kv.Limits{MaxRequestAge: 10}})
	for i := range 300 {
		if _, err := m.Apply(int64(1+i/150), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		view := m.View()
		defer view.Close()
		return len(slices.Collect(view.Requests()))
	}
	for _, step := range []struct {
		now  int64
		want int
	}{{10, 300}, {11, 150}, {12, 0}} {
		m.Expire(step.now)
		if got := count(); got != step.want {
			t.Errorf("at %d there are %d requests, want %d", step.now, got, step.want)
		}
	}
	if _, err := m.Apply(12, numbered(0)); err != nil || count() != 1 {
		t.Errorf("a request after all were forgotten: %v, %d are remembered", err, count())
	}
}

// restored returns a machine from what a view of m shows.
func restored(m *machine.Machine, opts machine.Options) (*machine.Machine, error) {
	view := m.View()
	defer view.Close()
	return machine.Restore(opts, view.State(), slices.Collect(view.Requests()), func(yield func(kv.Entry, error) bool) {
		for e := range view.All() {
			if !yield(e, nil) {
				return
			}
		}
	})
}

// TestRestoredMachineIsEqual feeds a machine and one that was restored from it
// the same: all their answers are equal.
func TestRestoredMachineIsEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t)
		for range rapid.IntRange(0, 40).Draw(t, "before") {
			p.command(t)
		}
		other, err := restored(p.machine, p.opts)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 40).Draw(t, "after") {
			at, cmd := p.tick(t), p.draw(t)
			a, errA := p.machine.Apply(at, &cmd)
			b, errB := other.Apply(at, &cmd)
			if a != b || fmt.Sprint(errA) != fmt.Sprint(errB) {
				t.Fatalf("%v %q: %+v, %v and %+v, %v", cmd.Op, cmd.Key, a, errA, b, errB)
			}
			one, two := p.machine.View(), other.View()
			if !slices.Equal(slices.Collect(one.Requests()), slices.Collect(two.Requests())) {
				t.Fatalf("after %v %q they remember other requests", cmd.Op, cmd.Key)
			}
			if !slices.Equal(slices.Collect(one.All()), slices.Collect(two.All())) {
				t.Fatalf("after %v %q they have other entries", cmd.Op, cmd.Key)
			}
			one.Close()
			two.Close()
		}
	})
}

func TestRestoreRefusesEntries(t *testing.T) {
	state := machine.State{Revision: 5, Time: 100, Keys: 2}
	sound := kv.Entry{Key: "a", Revision: 5, ExpiresAt: time.Unix(0, 101)}
	restore := func(second kv.Entry) error {
		_, err := machine.Restore(machine.Options{}, state, nil, func(yield func(kv.Entry, error) bool) {
			_ = yield(sound, nil) && yield(second, nil)
		})
		return err
	}
	for name, entry := range map[string]kv.Entry{
		"of a later revision":      {Key: "b", Revision: 6},
		"without a revision":       {Key: "b"},
		"that has expired":         {Key: "b", Revision: 1, ExpiresAt: time.Unix(0, 100)},
		"that is there twice":      {Key: "a", Revision: 1},
		"that is not in its place": {Key: "A", Revision: 1},
	} {
		if err := restore(entry); err == nil {
			t.Errorf("an entry %s: restored", name)
		}
	}
	if err := restore(kv.Entry{Key: "b", Revision: 1}); err != nil {
		t.Error(err)
	}
	if _, err := machine.Restore(machine.Options{}, state, nil, func(yield func(kv.Entry, error) bool) {
		yield(kv.Entry{}, kv.ErrUnavailable)
	}); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("entries that can't be read: %v, want %v", err, kv.ErrUnavailable)
	}
	for _, keys := range []int{1, 3} {
		state.Keys = keys
		if err := restore(kv.Entry{Key: "b", Revision: 1}); err == nil {
			t.Errorf("two entries where %d were announced: restored", keys)
		}
	}
	state.Keys, sound.Key = 2, ""
	if err := restore(kv.Entry{Key: "b", Revision: 1}); err == nil {
		t.Error("an entry without a key: restored")
	}
}

func TestRestoreRefusesRequests(t *testing.T) {
	none := iter.Seq2[kv.Entry, error](func(func(kv.Entry, error) bool) {})
	r := func(id byte, time int64) machine.Request { return machine.Request{ID: machine.Digest{id}, Time: time} }
	for name, requests := range map[string][]machine.Request{
		"twice the same":      {r(1, 1), r(1, 1)},
		"not in their order":  {r(1, 2), r(2, 1)},
		"of the future":       {r(1, 101)},
		"of a later revision": {{Time: 1, Revision: 6}},
		"unknown failure":     {{Failure: machine.FailureQuotaExceeded + 1}},
	} {
		if _, err := machine.Restore(machine.Options{}, machine.State{Revision: 5, Time: 100}, requests, none); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
	sound := []machine.Request{r(1, 1), r(2, 1), r(3, 100)}
	m, err := machine.Restore(machine.Options{}, machine.State{Time: 100, Limits: kv.Limits{MaxRequestAge: time.Hour}}, sound, none)
	if err != nil {
		t.Fatal(err)
	}
	view := m.View()
	defer view.Close()
	if got := slices.Collect(view.Requests()); !slices.Equal(got, sound) {
		t.Errorf("restored as %+v", got)
	}
}
