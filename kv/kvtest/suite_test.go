package kvtest

import (
	"testing"

	"kvbus/kv"
)

func openModel(_ testing.TB, opts Options) kv.Store { return NewModelStore(opts) }

func TestModelStore(t *testing.T) { Run(t, Config{Open: openModel}) }
