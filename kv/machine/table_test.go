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

// A key that is never removed is found at every moment, while the segments
// around it grow, split and shed tombstones.
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
			for _, n := range passing[:4000] {
				table.remove(n)
			}
			passing = passing[4000:]
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
