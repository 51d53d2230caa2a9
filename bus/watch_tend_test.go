package bus

import (
	"math"
	"testing"
	"time"
)

// Who asks for no audits, by an interval that never ends, gets none.
func TestVary(t *testing.T) {
	for _, d := range []time.Duration{0, 1, 3, time.Second, math.MaxInt64 / 2, math.MaxInt64 - 1, math.MaxInt64} {
		least, most := d-d/4, d+min(d/4+1, math.MaxInt64-d)
		for range 1000 {
			if got := vary(d); got < least || got > most {
				t.Fatalf("%d is varied to %d", d, got)
			}
		}
	}
}
