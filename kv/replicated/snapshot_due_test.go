package replicated

import (
	"math"
	"testing"
)

// A snapshot that is never due is so for every worker.
func TestStaggered(t *testing.T) {
	for _, tt := range []struct {
		n     int64
		place int
		want  int64
	}{
		{1000, 0, 1000},
		{1000, 1, 1250},
		{1000, 4, 2000},
		{math.MaxInt64, 0, math.MaxInt64},
		{math.MaxInt64, 1, math.MaxInt64},
		{math.MaxInt64 / 2, 3, math.MaxInt64/2 + 3*(math.MaxInt64/8)},
		{math.MaxInt64 / 2, 5, math.MaxInt64},
		{1, 1000, 1},
	} {
		if got := staggered(tt.n, tt.place); got != tt.want {
			t.Errorf("%d at place %d is %d, want %d", tt.n, tt.place, got, tt.want)
		}
	}
}
