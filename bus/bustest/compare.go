package bustest

import (
	"slices"
	"testing"
	"time"
)

// rounds is how often those that are compared take turns.
const rounds = 20

// A Contestant is one of those that [Compare] compares. Run does n operations and
// returns how long they took.
type Contestant struct {
	Name string
	Run  func(n int) time.Duration
}

// Compare measures b.N operations of each contestant. They take turns, so that a
// machine that is busy with something else is so for all of them. It reports
// what the first one does in a second, and what each of the others does as a part
// of what the first did in the same round: the medians of all rounds.
func Compare(b *testing.B, contestants []Contestant) {
	n := max(1, b.N/rounds)
	speeds := make([][]float64, len(contestants))
	for range rounds {
		for i, c := range contestants {
			speeds[i] = append(speeds[i], float64(n)/c.Run(n).Seconds())
		}
	}
	b.ReportMetric(0, "ns/op") // of all together, which says nothing
	first := contestants[0].Name
	b.ReportMetric(median(speeds[0]), first+"/s")
	for i, c := range contestants[1:] {
		parts := make([]float64, rounds)
		for r := range parts {
			parts[r] = speeds[i+1][r] / speeds[0][r]
		}
		b.ReportMetric(median(parts), c.Name+"/"+first)
	}
}

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
