package replicated

import (
	"testing"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// What expires with a batch is counted by its first sweep, wherever that is in it.
func TestSweepCountsWhatItsBatchExpires(t *testing.T) {
	m, sessions := machine.New(machine.Options{}), sessions{}
	number := uint64(0)
	apply := func(now int64, commands ...kv.Command) []outcome {
		t.Helper()
		number++
		verdict, outcomes := step(m, sessions, &batch{Worker: "w", Number: number, Base: number, Commands: commands}, now, []outcome{})
		if verdict != accepted || len(outcomes) != len(commands) {
			t.Fatalf("batch %d has the verdict %d and %d outcomes", number, verdict, len(outcomes))
		}
		return outcomes
	}
	sweep := kv.Command{Op: kv.OpSweep}
	apply(1, kv.Command{Op: kv.OpSet, Key: "a", TTL: 1}, kv.Command{Op: kv.OpSet, Key: "b", TTL: 1}, kv.Command{Op: kv.OpSet, Key: "c"})
	outcomes := apply(2, kv.Command{Op: kv.OpSet, Key: "d"}, sweep, sweep)
	if first, second := outcomes[1].result.Number, outcomes[2].result.Number; first != 2 || second != 0 {
		t.Errorf("of 2 keys the first sweep counts %d, the second %d", first, second)
	}
	if n := apply(3, sweep)[0].result.Number; n != 0 {
		t.Errorf("a sweep of nothing counts %d", n)
	}
}
