package machine

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func TestTableAgainstMap(t *testing.T) {
	for _, keys := range []int{5, 300, 20_000} {
		t.Run(fmt.Sprint(keys), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(keys)))
			var table table
			table.init()
			model := map[string]*node{}
			for range 10 * keys {
				key := fmt.Sprint(r.IntN(keys))
				if n := model[key]; n == nil {
					n = newNode(key)
					table.put(n)
					model[key] = n
				} else {
					table.remove(n)
					delete(model, key)
				}
				probe := fmt.Sprint(r.IntN(keys))
				if got, want := table.get(probe), model[probe]; got != want {
					t.Fatalf("get(%q) = %v, want %v", probe, got, want)
				}
			}
			for i := range keys {
				key := fmt.Sprint(i)
				if got, want := table.get(key), model[key]; got != want {
					t.Fatalf("at the end get(%q) = %v, want %v", key, got, want)
				}
			}
		})
	}
}

// A table that was large is as small as one that never was, and finds what is left.
func TestTableShrinks(t *testing.T) {
	var table table
	table.init()
	const stays = 100
	for round := range 2 {
		var nodes []*node
		for i := range 20_000 {
			n := newNode(fmt.Sprint("k", round, i))
			table.put(n)
			nodes = append(nodes, n)
		}
		for i, n := range nodes[stays:] {
			table.remove(n)
			if last := nodes[len(nodes)-1]; i%997 == 0 && n != last && table.get(last.key) != last {
				t.Fatalf("after %d removals %q is not found", i+1, last.key)
			}
		}
		for i, n := range nodes {
			if want := i < stays; (table.get(n.key) == n) != want {
				t.Fatalf("get(%q) finds it: %v, want %v", n.key, !want, want)
			}
		}
		for _, n := range nodes[:stays] {
			table.remove(n)
		}
		if n := len(table.directory.Load().segments); n != 1 {
			t.Errorf("an empty table has a directory of %d places", n)
		}
	}
}

// The writer knows how many segments need the whole directory, which it halves by that.
func TestTableCountsDeepestSegments(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	var table table
	table.init()
	var nodes []*node
	for wave := range 6 {
		for want := r.IntN(20_000); len(nodes) != want; {
			if len(nodes) < want {
				nodes = append(nodes, newNode(fmt.Sprint(wave, ".", len(nodes))))
				table.put(nodes[len(nodes)-1])
			} else {
				i := r.IntN(len(nodes))
				table.remove(nodes[i])
				nodes[i] = nodes[len(nodes)-1]
				nodes = nodes[:len(nodes)-1]
			}
		}
		d := table.directory.Load()
		found, deepest := 0, 0
		var last *segment
		for i := range d.segments {
			s := d.segments[i].Load()
			if s.depth == d.depth {
				deepest++
			}
			if s != last {
				found += s.live
			}
			last = s
		}
		if deepest != table.deepest || found != len(nodes) {
			t.Fatalf("wave %d: %d of %d nodes, %d segments need all bits, %d are counted", wave, found, len(nodes), deepest, table.deepest)
		}
		for _, n := range nodes {
			if table.get(n.key) != n {
				t.Fatalf("wave %d: %q is not found", wave, n.key)
			}
		}
	}
}

// However many keys come and go, the table is as large as those need that are
// there at a time.
func TestTableDoesNotGrowByKeysThatAreGone(t *testing.T) {
	var table table
	table.init()
	var there []*node
	for i := range 50_000 {
		n := newNode(fmt.Sprint("passes", i))
		table.put(n)
		if there = append(there, n); len(there) > 200 {
			table.remove(there[0])
			there = there[1:]
		}
	}
	if n := len(table.directory.Load().segments); n != 1 {
		t.Errorf("%d keys are in %d segments", len(there), n)
	}
}

// A key that is never removed is found at every moment, while the segments
// around it grow, split, shed tombstones and merge.
func TestTableReadersBesideWriter(t *testing.T) {
	var table table
	table.init()
	const stays = 100
	for i := range stays {
		table.put(newNode(fmt.Sprint("stays", i)))
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := 0; !done.Load(); i++ {
				key := fmt.Sprint("stays", i%stays)
				if n := table.get(key); n == nil || n.key != key {
					t.Errorf("get(%q) = %v while the table changes", key, n)
					return
				}
			}
		})
	}
	var passing []*node
	for i := range 30_000 {
		n := newNode(fmt.Sprint("passes", i))
		table.put(n)
		if passing = append(passing, n); len(passing) > 5000 {
			for _, n := range passing[:4900] {
				table.remove(n)
			}
			passing = passing[4900:]
		}
	}
	done.Store(true)
	readers.Wait()
}

func TestNodeCopiesItsKey(t *testing.T) {
	for _, length := range []int{1, inlineKey, inlineKey + 1, 1024} {
		bytes := make([]byte, length)
		for i := range bytes {
			bytes[i] = byte('a' + i%26)
		}
		key := string(bytes)
		if n := newNode(key); n.key != key {
			t.Errorf("a key of %d bytes became %q", length, n.key)
		}
	}
}
