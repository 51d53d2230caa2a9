package memory_test

import (
	"context"
	"testing"

	"kvbus/kv"
	"kvbus/kv/memory"
)

// A get allocates nothing, and a write of a key that is there its new version alone.
func TestAllocations(t *testing.T) {
	store := memory.New(memory.Options{ReplayEvents: 10})
	defer store.Close()
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		want float64
		call func() error
	}{
		{"set", 1, func() error {
			_, err := store.Do(ctx, kv.Command{Op: kv.OpSet, Key: "k", Value: "v"})
			return err
		}},
		{"get", 0, func() error {
			_, err := store.Get(ctx, "k", kv.ReadOptions{})
			return err
		}},
	} {
		got := testing.AllocsPerRun(1000, func() {
			if err := tt.call(); err != nil {
				t.Fatal(err)
			}
		})
		if got > tt.want {
			t.Errorf("%s: %v allocations, want %v", tt.name, got, tt.want)
		}
	}
}
