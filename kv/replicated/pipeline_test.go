package replicated

import (
	"errors"
	"fmt"
	"testing"

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
