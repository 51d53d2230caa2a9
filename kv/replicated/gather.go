package replicated

import "time"

const (
	// gatherFrom is the shortest wait that is worth a timer. Those who come again
	// after a faster batch are gathered while the next one is under way.
	gatherFrom = 500 * time.Microsecond
	// gatherMost is the longest wait: a batch that took longer, as during an election,
	// says nothing of those who may come.
	gatherMost = 20 * time.Millisecond
	// departFrom is the smallest batch that is worth its cost, which is that of a
	// dozen commands.
	departFrom = 16
)

// A gathering is the short time after a batch was answered in which those whom it
// answered may come again. The next batch, unless it [departs], waits for them: else
// they would miss it, and two halves would take turns, each waiting for the batch of
// the other. It is over when as many wait as were answered and waited before; if they
// do not come, after as long as the batch took, and gatherMost at most.
type gathering struct {
	expected int       // so many may come, with those who wait already
	until    time.Time // it ends then at the latest
	timer    *time.Timer
}

// begin starts the time after a batch that took so long, and calls end when it has
// passed. Whether all have come before is seen by asking.
func (g *gathering) begin(now time.Time, took time.Duration, expected int, end func()) {
	if took < gatherFrom {
		g.until = time.Time{}
		return
	}
	wait := min(took, gatherMost)
	g.expected, g.until = expected, now.Add(wait)
	if g.timer == nil {
		g.timer = time.AfterFunc(wait, end)
	} else {
		g.timer.Reset(wait)
	}
}

// departs reports whether the next batch goes at once when so many are to be answered
// and so many wait: where it is larger by half than the one before it need not gather
// more, and the disk works while those are answered.
func departs(answered, waiting int) bool {
	return waiting >= departFrom && 2*waiting >= 3*answered
}

// over reports whether a batch may go that has so many members.
func (g *gathering) over(now time.Time, members int) bool {
	return members >= g.expected || !now.Before(g.until)
}

func (g *gathering) stop() {
	if g.timer != nil {
		g.timer.Stop()
	}
}
