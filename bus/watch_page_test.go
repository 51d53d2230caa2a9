package bus

import "testing"

// Small items tell little of those after them: a page has a few times as many items
// as the one before it, and never more than is about to fit.
func TestPageSize(t *testing.T) {
	var p pageSize
	if got := p.limit(1000); got != firstPage {
		t.Errorf("the first page has %d items", got)
	}
	for _, step := range []struct{ items, size, want int }{
		{firstPage, firstPage * 50, pageGrowth * firstPage},
		{64, 64 * 50, 256},
		{256, 256 * 50, 1000},
		{1000, 1000 * pageBytes / 10, 9},
		{9, 9 * 2 * pageBytes, 1},
		{1, 50, firstPage},
		{0, 0, firstPage},
	} {
		p.measure(step.items, step.size)
		if got := p.limit(1000); got != step.want {
			t.Errorf("after %d items of %d bytes the next page has %d; want %d", step.items, step.size, got, step.want)
		}
	}
	if got := p.limit(5); got != 5 {
		t.Errorf("a page of at most 5 has %d", got)
	}
}
