package memory_test

import (
	"testing"

	"kvbus/kv"
	"kvbus/kv/kvtest"
	"kvbus/kv/memory"
)

func TestConformance(t *testing.T) {
	kvtest.Run(t, kvtest.Config{
		Open: func(_ testing.TB, opts kvtest.Options) kv.Store {
			return memory.New(memory.Options{Limits: opts.Limits, ReplayEvents: opts.ReplayEvents})
		},
	})
}
