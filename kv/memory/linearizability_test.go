package memory_test

import (
	"testing"

	"kvbus/kv"
	"kvbus/kv/kvtest"
	"kvbus/kv/memory"
)

func TestLinearizable(t *testing.T) {
	store := memory.New(memory.Options{Limits: kv.DefaultLimits()})
	defer store.Close()
	h := kvtest.CheckLinearizable(t, []kv.Store{store}, kvtest.LinearizabilityOptions{Clients: 6, Keys: 4, Operations: 2500})
	if n := h.Count(kvtest.Refused, kvtest.Unknown); n > 0 {
		t.Errorf("%d of %d operations were refused or not answered in time", n, len(h))
	}
}
