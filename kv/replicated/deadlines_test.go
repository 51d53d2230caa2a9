package replicated

import (
	"math"
	"testing"
	"time"
)

// A deadline at the end of time is nobody's turn, rather than everybody's now.
func TestTurnAt(t *testing.T) {
	const far = math.MaxInt64 - int64(time.Millisecond)
	for _, tt := range []struct {
		due   int64
		place int
		want  int64
	}{
		{1000, 0, 1000},
		{1000, 1, 1000 + int64(deadlineTurn)},
		{1000, 100, 1000 + deadlineTurns*int64(deadlineTurn)},
		{far, 0, far},
		{far, 1, math.MaxInt64},
		{math.MaxInt64, 0, math.MaxInt64},
		{math.MaxInt64, 1, math.MaxInt64},
	} {
		if got := turnAt(tt.due, tt.place); got != tt.want {
			t.Errorf("deadline %d, place %d: %d, want %d", tt.due, tt.place, got, tt.want)
		}
	}
}
