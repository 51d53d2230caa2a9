package replicated

import (
	"errors"
	"testing"

	"kvbus/kv"
)

// Positions are known for a while after their record, and awaited before it.
func TestPositions(t *testing.T) {
	var p positions
	const first = 10
	p.reset(first, 0)
	awaits := func(sequence uint64) <-chan struct{} {
		t.Helper()
		_, changed, err := p.at(sequence)
		if changed == nil || err != nil {
			t.Fatalf("record %d is not awaited: %v", sequence, err)
		}
		return changed
	}
	told := func(changed <-chan struct{}) {
		t.Helper()
		select {
		case <-changed:
		default:
			t.Error("who waits is not told")
		}
	}
	changed, another := awaits(first+1), awaits(first+2)
	p.add(7)
	told(changed)
	told(another)                                // each looks whether it was for it
	for i := uint64(2); i <= maxPositions; i++ { // one more than there may be
		p.add(7 * i)
	}
	held := uint64(first + maxPositions/2)
	for sequence, want := range map[uint64]uint64{held: 7 * (held - first), held + 1: 7 * (held + 1 - first), first + maxPositions: 7 * maxPositions} {
		if got, changed, err := p.at(sequence); got != want || changed != nil || err != nil {
			t.Errorf("after record %d the revision is %d, %v; want %d", sequence, got, err, want)
		}
	}
	if _, _, err := p.at(held - 1); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a record that is too long ago: %v", err)
	}
	changed = awaits(first + maxPositions + 1)
	p.reset(2*maxPositions, 3) // as from a snapshot
	told(changed)
	if got, _, err := p.at(2 * maxPositions); got != 3 || err != nil {
		t.Errorf("after a snapshot the revision is %d, %v", got, err)
	}
	if _, _, err := p.at(2*maxPositions - 1); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a record before the snapshot: %v", err)
	}
}
