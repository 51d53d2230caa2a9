package replicated

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestGathering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gathering
		var ended atomic.Int32
		end := func() { ended.Add(1) }
		if !g.over(time.Now(), 1) {
			t.Error("the first batch is to wait")
		}

		g.begin(time.Now(), gatherFrom-1, 3, end)
		if !g.over(time.Now(), 1) {
			t.Error("what comes after a fast batch is to wait")
		}

		g.begin(time.Now(), 10*time.Millisecond, 3, end)
		if g.over(time.Now(), 2) {
			t.Error("two of three are all")
		}
		if !g.over(time.Now(), 3) {
			t.Error("three of three are not all")
		}
		time.Sleep(10*time.Millisecond - 1)
		synctest.Wait()
		if g.over(time.Now(), 2) || ended.Load() > 0 {
			t.Error("it ends before the time of the batch has passed again")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !g.over(time.Now(), 2) || ended.Load() != 1 {
			t.Errorf("after the time of the batch it is not over; it ended %d times", ended.Load())
		}

		g.begin(time.Now(), 3*time.Second, 3, end)
		time.Sleep(gatherMost)
		synctest.Wait()
		if !g.over(time.Now(), 2) || ended.Load() != 2 {
			t.Errorf("after a batch that took long it waits as long; it ended %d times", ended.Load())
		}

		g.begin(time.Now(), 10*time.Millisecond, 3, end)
		g.stop()
		time.Sleep(time.Second)
		if ended.Load() != 2 {
			t.Error("it ends after it was stopped")
		}
	})
}

func TestDeparts(t *testing.T) {
	for _, tt := range []struct {
		answered, waiting int
		want              bool
	}{
		{0, 0, false},
		{1, 15, false},
		{1, 16, true},
		{16, 23, false},
		{16, 24, true},
		{64, 95, false},
		{64, 96, true},
	} {
		if got := departs(tt.answered, tt.waiting); got != tt.want {
			t.Errorf("%d are answered and %d wait: %v", tt.answered, tt.waiting, got)
		}
	}
}
