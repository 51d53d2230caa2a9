package machine_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kvbus/kv"
	"kvbus/kv/kvtest"
	"kvbus/kv/machine"
)

// TestMachineIsTheModel feeds the machine and the model of the contract the
// same random commands at the same times, and compares all that can be seen of
// them after each one. A failure is shrunk to a short sequence.
func TestMachineIsTheModel(t *testing.T) { rapid.Check(t, machineIsTheModel) }

// FuzzMachine is the same, driven by the bytes of the fuzzer.
func FuzzMachine(f *testing.F) { f.Fuzz(rapid.MakeFuzz(machineIsTheModel)) }

func machineIsTheModel(t *rapid.T) {
	p := newPair(t)
	t.Repeat(map[string]func(*rapid.T){
		"command": p.command,
		"batch":   p.batch,
		"another": p.batch, // most steps are commands
		"expire":  p.expire,
		"get":     p.get,
		"scan":    p.scan,
		"replay":  p.replay,
		"hold":    p.hold,
		"look":    p.look,
		"let go":  p.letGo,
		"":        p.compare,
	})
}

// A pair is the machine and the model in what must be the same state.
type pair struct {
	machine *machine.Machine
	shared  *machine.Shared // the machine as its readers have it
	model   *kvtest.Model
	now     int64
	opts    machine.Options
	held    []held
	sent    []kv.Command // the last commands with a request id
}

// A held view must go on showing what was there when it was taken.
type held struct {
	view  *machine.View
	model *kvtest.Model
}

// What the commands are made of: little, so that they meet each other often.
var (
	keys = rapid.SampledFrom([]string{"a", "a.", "a.b", "a..b", "b", "b/c", "ä"})
	// Prefixes of keys, and cursors that are and are not keys.
	prefixes = rapid.SampledFrom([]string{"", "a", "a.", "a..", "b", "b/c", "c", "ä"})
	values   = rapid.SampledFrom([]string{
		"", "0", "1", "-7", "+5", "99", "text", "1.0", "a longer value, of some forty bytes or so",
		"9223372036854775807", "9223372036854775806", "-9223372036854775808", "9223372036854775808",
	})
	deltas = rapid.SampledFrom([]int64{1, -1, 0, 3, -3, math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, math.MinInt64 + 1})
	lives  = rapid.SampledFrom([]time.Duration{
		0, 0, 1, 2, 3, 5, 5, 8, 13, 20, 20, 21, 35, 60, 60, 100, math.MaxInt64, math.MaxInt64 - 1060,
	})
	patterns = rapid.SampledFrom([]string{">", "*", "a.>", "*.b", "a.=.b", "a.=", "a.*", "b", "c.>"})
	badKeys  = rapid.SampledFrom([]string{"", " ", "a b", "*", "\xff"})
	ids      = rapid.SampledFrom([]string{"", "", "1", "2"})
	traces   = rapid.SampledFrom([]kv.Trace{{}, {}, {Parent: "00-1-2-01", State: "s=1"}})
	limits   = rapid.Custom(func(t *rapid.T) kv.Limits {
		return kv.Limits{
			MaxKeys:      rapid.SampledFrom([]int64{0, 0, 5, 4, 2}).Draw(t, "max keys"),
			MaxValueSize: rapid.SampledFrom([]int64{0, 0, 0, 0, 39, 19, 2}).Draw(t, "max value size"),
			MaxBytes:     rapid.SampledFrom([]int64{0, 0, 0, 0, 60, 30, 10}).Draw(t, "max bytes"),

			MaxRequestIDs: rapid.SampledFrom([]int64{0, 0, 3, 2, 1}).Draw(t, "max request ids"),
			MaxRequestAge: rapid.SampledFrom([]time.Duration{0, 0, 20, 5, 1}).Draw(t, "max request age"),
		}
	})
)

func newPair(t *rapid.T) *pair {
	opts := machine.Options{
		Limits:       limits.Draw(t, "limits"),
		ReplayEvents: rapid.IntRange(1, 12).Draw(t, "replay events"),
		ReplayBytes:  rapid.SampledFrom([]int64{1, 3*machine.EventOverhead + 20, 5 * machine.EventOverhead, 1 << 20}).Draw(t, "replay bytes"),
	}
	m := machine.New(opts)
	return &pair{machine: m, shared: machine.Share(m), model: kvtest.NewModel(opts.Limits), now: 1000, opts: opts}
}

// tick moves the time on; now and then back, which must count as no time.
func (p *pair) tick(t *rapid.T) int64 {
	at := p.now + rapid.SampledFrom([]int64{0, 0, 1, 1, 2, 3, 5, 8, 13, 40, -1, -20}).Draw(t, "ticks")
	p.now = max(p.now, at)
	return at
}

func (p *pair) command(t *rapid.T) { p.apply(t, p.tick(t)) }

// batch is commands that take effect at the same time.
func (p *pair) batch(t *rapid.T) {
	at := p.tick(t)
	for range rapid.IntRange(2, 12).Draw(t, "commands") {
		p.apply(t, at)
		p.compare(t)
	}
}

func (p *pair) apply(t *rapid.T, at int64) {
	cmd := p.draw(t)
	got, gotErr := p.machine.Apply(at, &cmd)
	want, wantErr := p.model.Apply(at, cmd)
	if got != want || sentinel(gotErr) != sentinel(wantErr) {
		t.Fatalf("%v %q at %d:\n got %+v, %v\nwant %+v, %v", cmd.Op, cmd.Key, at, got, gotErr, want, wantErr)
	}
	if gotErr != nil && sentinel(gotErr) == nil {
		t.Fatalf("%v %q: %v is no error of the contract", cmd.Op, cmd.Key, gotErr)
	}
}

func (p *pair) draw(t *rapid.T) kv.Command {
	if len(p.sent) > 0 && rapid.IntRange(0, 5).Draw(t, "again") == 5 {
		cmd := rapid.SampledFrom(p.sent).Draw(t, "command")
		cmd.Trace = traces.Draw(t, "trace")
		return cmd
	}
	cmd := p.drawNew(t)
	if cmd.RequestID != "" {
		p.sent = append(p.sent, cmd)
		p.sent = p.sent[max(0, len(p.sent)-4):]
	}
	return cmd
}

func (p *pair) drawNew(t *rapid.T) kv.Command {
	cmd := kv.Command{
		Op: rapid.SampledFrom([]kv.Op{
			kv.OpSet, kv.OpSet, kv.OpSet, kv.OpSet, kv.OpCompareAndSwap, kv.OpCompareAndSwap, kv.OpIncrement, kv.OpIncrement,
			kv.OpDelete, kv.OpTouch, kv.OpTouch, kv.OpTouch, kv.OpClear, kv.OpSetLimits, kv.OpSweep,
		}).Draw(t, "op"),
		Key:     keys.Draw(t, "key"),
		KeepTTL: rapid.SampledFrom([]bool{false, false, true}).Draw(t, "keep TTL"),
		TTL:     lives.Draw(t, "TTL"),
		Trace:   traces.Draw(t, "trace"),
	}
	switch cmd.Op {
	case kv.OpSet, kv.OpCompareAndSwap:
		cmd.Value = values.Draw(t, "value")
	case kv.OpIncrement:
		cmd.Delta = deltas.Draw(t, "delta")
	case kv.OpClear:
		cmd.Key = prefixes.Draw(t, "prefix")
	case kv.OpSetLimits:
		cmd.Limits = limits.Draw(t, "limits")
	}
	if cmd.Op.OnKey() || cmd.Op == kv.OpClear {
		cmd.RequestID = ids.Draw(t, "request id")
	}
	cmd.Expect = p.expectation(t, cmd)
	if rapid.IntRange(0, 24).Draw(t, "malformed") == 24 {
		spoil(t, &cmd)
	}
	return cmd
}

// spoil makes most commands malformed.
func spoil(t *rapid.T, cmd *kv.Command) {
	switch rapid.IntRange(0, 6).Draw(t, "how") {
	case 0:
		cmd.Op = rapid.SampledFrom([]kv.Op{0, 9}).Draw(t, "op")
	case 1:
		cmd.Key = badKeys.Draw(t, "key")
	case 2:
		cmd.TTL = rapid.SampledFrom([]time.Duration{-1, math.MinInt64}).Draw(t, "TTL")
	case 3:
		cmd.Limits.MaxBytes = -1
	case 5:
		cmd.Limits.MaxRequestAge = -1
	case 6:
		cmd.RequestID = rapid.SampledFrom([]string{" ", "ä", strings.Repeat("x", 129)}).Draw(t, "request id")
	case 4:
		cmd.Expect.Kind = rapid.SampledFrom([]kv.ExpectKind{kv.ExpectAny, kv.ExpectValue, 7}).Draw(t, "expect")
	}
}

// expectation draws one that often holds, and often just doesn't.
func (p *pair) expectation(t *rapid.T, cmd kv.Command) kv.Expectation {
	var kinds []kv.ExpectKind
	switch cmd.Op {
	case kv.OpCompareAndSwap:
		kinds = []kv.ExpectKind{kv.ExpectAbsent, kv.ExpectValue, kv.ExpectRevision}
	case kv.OpSet, kv.OpDelete:
		kinds = []kv.ExpectKind{kv.ExpectAny, kv.ExpectAny, kv.ExpectAny, kv.ExpectRevision}
	default:
		return kv.Expectation{}
	}
	current, _ := p.model.Get(0, cmd.Key)
	switch kind := rapid.SampledFrom(kinds).Draw(t, "expect"); kind {
	case kv.ExpectValue:
		return kv.IfValue(rapid.OneOf(rapid.Just(current.Value), values).Draw(t, "expected value"))
	case kv.ExpectRevision:
		near := []uint64{current.Revision, current.Revision, 0, p.model.Revision(), p.model.Revision() + 1}
		return kv.IfRevision(rapid.SampledFrom(near).Draw(t, "expected revision"))
	default:
		return kv.Expectation{Kind: kind}
	}
}

func (p *pair) expire(t *rapid.T) {
	at := p.tick(t)
	if got, want := p.machine.Expire(at), p.model.Expire(at); got != want {
		t.Fatalf("expire at %d: %d keys, want %d", at, got, want)
	}
}

// get compares at a time of its own: who reads may be ahead of the machine's time.
func (p *pair) get(t *rapid.T) {
	key := keys.Draw(t, "key")
	at := p.now + rapid.Int64Range(0, 40).Draw(t, "later")
	var got kv.Entry
	err := p.shared.Get(key, func() time.Time { return time.Unix(0, at) }, &got)
	if want, live := p.model.Get(at, key); got != want || (err == nil) != live {
		t.Fatalf("get %q at %d:\n got %+v, %v\nwant %+v, %v", key, at, got, err, want, live)
	}
}

func (p *pair) scan(t *rapid.T) {
	view := p.machine.View()
	defer view.Close()
	p.scanView(t, held{view, p.model})
}

func (p *pair) scanView(t *rapid.T, h held) {
	q := kv.Query{
		Prefix:   prefixes.Draw(t, "prefix"),
		Filter:   filter(t),
		Limit:    rapid.IntRange(0, 4).Draw(t, "limit"),
		MaxBytes: rapid.SampledFrom([]int{0, 0, 1, 5, 50}).Draw(t, "max bytes"),
		Cursor:   prefixes.Draw(t, "cursor"),
		KeysOnly: rapid.Bool().Draw(t, "keys only"),
	}
	at := p.now + rapid.Int64Range(-10, 30).Draw(t, "later")
	got, gotErr := h.view.Scan(q, time.Unix(0, at))
	want, wantErr := h.model.Scan(at, q)
	if sentinel(gotErr) != sentinel(wantErr) || got.Revision != want.Revision || got.Cursor != want.Cursor || !slices.Equal(got.Entries, want.Entries) {
		t.Fatalf("scan %+v at %d:\n got %+v, %v\nwant %+v, %v", q, at, got, gotErr, want, wantErr)
	}
}

func filter(t *rapid.T) kv.Filter {
	f, err := kv.ParseFilter(patterns.Draw(t, "filter"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (p *pair) replay(t *rapid.T) {
	p.compareReplay(t, kv.ReplayQuery{
		After:    rapid.Uint64Range(0, p.model.Revision()+2).Draw(t, "after"),
		Prefix:   prefixes.Draw(t, "prefix"),
		Filter:   filter(t),
		Limit:    rapid.IntRange(0, 4).Draw(t, "limit"),
		MaxBytes: rapid.SampledFrom([]int{0, 0, 1, 5, 50}).Draw(t, "max bytes"),
	})
}

func (p *pair) compareReplay(t *rapid.T, q kv.ReplayQuery) {
	got, gotErr := p.shared.Replay(q)
	want, wantErr := p.model.Replay(q, p.oldest())
	if sentinel(gotErr) != sentinel(wantErr) || got.Revision != want.Revision || got.More != want.More || !slices.Equal(got.Events, want.Events) {
		t.Fatalf("replay %+v:\n got %+v, %v\nwant %+v, %v", q, got, gotErr, want, wantErr)
	}
}

// oldest returns the revision of the oldest event that a ring of the machine's
// bounds holds; the newest one is held whatever its size.
func (p *pair) oldest() uint64 {
	events := p.model.Events()
	oldest, size := p.model.Revision()+1, int64(0)
	for i, e := range slices.Backward(events) {
		size += int64(machine.EventOverhead + len(e.Key) + len(e.Value))
		if e.Trace != (kv.Trace{}) {
			size += int64(machine.TraceOverhead + len(e.Trace.Parent) + len(e.Trace.State))
		}
		n := len(events) - i
		if n > 1 && (n > p.opts.ReplayEvents || size > p.opts.ReplayBytes) {
			break
		}
		oldest = e.Revision
	}
	return oldest
}

func (p *pair) hold(t *rapid.T) {
	if len(p.held) == 4 {
		return // enough views are held
	}
	p.held = append(p.held, held{p.machine.View(), p.model.Clone()})
}

func (p *pair) look(t *rapid.T) {
	if i, ok := p.drawHeld(t); ok {
		p.scanView(t, p.held[i])
	}
}

func (p *pair) letGo(t *rapid.T) {
	if i, ok := p.drawHeld(t); ok {
		p.held[i].view.Close()
		p.held = slices.Delete(p.held, i, i+1)
	}
}

// drawHeld picks a view that is held, if there is one. Where there is none the
// action does nothing; to skip it would fail a run of the fuzzer that draws
// nothing else.
func (p *pair) drawHeld(t *rapid.T) (int, bool) {
	if len(p.held) == 0 {
		return 0, false
	}
	return rapid.IntRange(0, len(p.held)-1).Draw(t, "view"), true
}

// compare looks at everything after each step.
func (p *pair) compare(t *rapid.T) {
	want := p.model.Info()
	want.OldestRevision = p.oldest()
	if got := p.machine.Info(); got != want {
		t.Fatalf("info:\n got %+v\nwant %+v", got, want)
	}
	got, ok := p.machine.NextDeadline()
	if next, pending := p.model.NextDeadline(); ok != pending || ok && got != next {
		t.Fatalf("next deadline: %d, %v; want %d, %v", got, ok, next, pending)
	}
	p.compareReplay(t, kv.ReplayQuery{After: want.OldestRevision - 1})
	for _, h := range append(slices.Clone(p.held), held{p.machine.View(), p.model}) {
		page, err := h.view.Scan(kv.Query{}, time.Unix(0, 0))
		whole, _ := h.model.Scan(0, kv.Query{})
		if err != nil || page.Revision != whole.Revision || !slices.Equal(page.Entries, whole.Entries) {
			t.Fatalf("a view of revision %d:\n got %+v, %v\nwant %+v", whole.Revision, page, err, whole)
		}
		compareRequests(t, h)
		if h.model == p.model {
			h.view.Close()
		}
	}
}

// compareRequests looks at what is remembered of requests.
func compareRequests(t *rapid.T, h held) {
	got, want := slices.Collect(h.view.Requests()), h.model.Remembered()
	if len(got) != len(want) {
		t.Fatalf("%d requests are remembered, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := kvtest.Remembered{Command: w.Command, Time: got[i].Time, Err: w.Err}
		g.Result.Applied, g.Result.Revision, g.Result.Number = got[i].Applied, got[i].Revision, got[i].Number
		if got[i].Deadline != 0 {
			g.Result.ExpiresAt = time.Unix(0, got[i].Deadline).UTC()
		}
		if g != w || (got[i].Failure != 0) != (w.Err != nil) {
			t.Fatalf("remembered request %d: %+v, want %+v", i, got[i], w)
		}
	}
}

// sentinel returns the error of the contract that err is, nil for none.
func sentinel(err error) error {
	for _, s := range []error{
		kv.ErrInvalidKey, kv.ErrInvalidArgument, kv.ErrNotFound, kv.ErrNotANumber, kv.ErrConflict,
		kv.ErrCompacted, kv.ErrValueTooLarge, kv.ErrQuotaExceeded,
	} {
		if errors.Is(err, s) {
			return s
		}
	}
	return nil
}

// TestMachinesAreEqual feeds two machines the same: no answer may depend on
// anything but what they were fed, such as the seed of a hash.
func TestMachinesAreEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := newPair(t)
		other := machine.New(one.opts)
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			at, cmd := one.tick(t), one.draw(t)
			a, errA := one.machine.Apply(at, &cmd)
			b, errB := other.Apply(at, &cmd)
			if a != b || fmt.Sprint(errA) != fmt.Sprint(errB) {
				t.Fatalf("%v %q: %+v, %v and %+v, %v", cmd.Op, cmd.Key, a, errA, b, errB)
			}
		}
		if a, b := one.machine.Info(), other.Info(); a != b {
			t.Fatalf("info: %+v and %+v", a, b)
		}
	})
}
