package machine

import (
	"hash/maphash"
	"sync/atomic"
)

// A table finds nodes by key. One writer changes it; any number of readers
// look things up at the same time without waiting.
//
// It is an extendible hash: a directory, indexed by the leading bits of the
// hash, of segments that grow, split and shed their tombstones one at a time,
// so that no single insert pays for the size of the table. A segment that is
// replaced stays as it was for the readers that are still in it; they find
// what was there when they started, which is as good as having read then.
//
// The seed is random. It can't be seen in any answer: nothing is listed in the
// order of the table.
type table struct {
	seed      maphash.Seed
	directory atomic.Pointer[directory]
}

type directory struct {
	depth    uint // leading bits of the hash that are the index
	segments []atomic.Pointer[segment]
}

// A segment is an open-addressing table with linear probing.
type segment struct {
	depth uint // leading bits of the hash that all its nodes share
	slots []slot
	live  int
	used  int // live and removed ones
}

// A slot is empty while its hash is 0; one whose node is nil was removed.
type slot struct {
	hash atomic.Uint64
	node atomic.Pointer[node]
}

const (
	minSegment = 8
	maxSegment = 1024
)

func (t *table) init() {
	t.seed = maphash.MakeSeed()
	d := &directory{segments: make([]atomic.Pointer[segment], 1)}
	d.segments[0].Store(newSegment(0, minSegment))
	t.directory.Store(d)
}

func newSegment(depth uint, slots int) *segment {
	return &segment{depth: depth, slots: make([]slot, slots)}
}

// hash returns the hash of key, which is never 0.
func (t *table) hash(key string) uint64 {
	return max(1, maphash.String(t.seed, key))
}

func (d *directory) at(hash uint64) *atomic.Pointer[segment] {
	return &d.segments[hash>>1>>(63-d.depth)]
}

// get returns the node of key, nil if there is none.
func (t *table) get(key string) *node {
	hash := t.hash(key)
	s := t.directory.Load().at(hash).Load()
	mask := uint64(len(s.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		slot := &s.slots[i]
		switch slot.hash.Load() {
		case hash:
			if n := slot.node.Load(); n != nil && n.key == key {
				return n
			}
		case 0:
			return nil
		}
	}
}

// put adds a node whose key is not there.
func (t *table) put(n *node) {
	hash := t.hash(n.key)
	s := t.directory.Load().at(hash).Load()
	for s.full() {
		t.grow(hash, s)
		s = t.directory.Load().at(hash).Load()
	}
	s.insert(hash, n)
}

// remove takes out a node that is there.
func (t *table) remove(n *node) {
	hash := t.hash(n.key)
	place := t.directory.Load().at(hash)
	s := place.Load()
	mask := uint64(len(s.slots) - 1)
	i := hash & mask
	for s.slots[i].node.Load() != n {
		i = (i + 1) & mask
	}
	s.slots[i].node.Store(nil)
	s.live--
}

// full reports whether there is no room for one more; a quarter stays empty,
// so that probes are short and end.
func (s *segment) full() bool { return s.used >= len(s.slots)/4*3 }

func (s *segment) insert(hash uint64, n *node) {
	mask := uint64(len(s.slots) - 1)
	i := hash & mask
	for s.slots[i].hash.Load() != 0 {
		i = (i + 1) & mask
	}
	// The hash comes last: it is what makes the slot visible.
	s.slots[i].node.Store(n)
	s.slots[i].hash.Store(hash)
	s.live++
	s.used++
}

// grow makes room in the segment of hash: it drops tombstones, or doubles the
// segment, or splits it in two.
func (t *table) grow(hash uint64, s *segment) {
	switch size := len(s.slots); {
	case s.live < size/8 && size > minSegment:
		t.replace(hash, s, s.resized(size/2))
	case s.live < size/2:
		t.replace(hash, s, s.resized(size))
	case size < maxSegment:
		t.replace(hash, s, s.resized(2*size))
	default:
		t.split(hash, s)
	}
}

func (s *segment) resized(slots int) *segment {
	next := newSegment(s.depth, slots)
	for hash, n := range s.all {
		next.insert(hash, n)
	}
	return next
}

// all iterates over the live nodes of a segment.
func (s *segment) all(yield func(uint64, *node) bool) {
	for i := range s.slots {
		if n := s.slots[i].node.Load(); n != nil && !yield(s.slots[i].hash.Load(), n) {
			return
		}
	}
}

// replace puts next in all places of the directory that hold s.
func (t *table) replace(hash uint64, s, next *segment) {
	d := t.directory.Load()
	span := 1 << (d.depth - s.depth)
	first := int(hash>>1>>(63-d.depth)) &^ (span - 1)
	for i := first; i < first+span; i++ {
		d.segments[i].Store(next)
	}
}

// split puts two segments in the place of s, by the next bit of the hash.
func (t *table) split(hash uint64, s *segment) {
	d := t.directory.Load()
	if s.depth == d.depth {
		doubled := &directory{depth: d.depth + 1, segments: make([]atomic.Pointer[segment], 2*len(d.segments))}
		for i := range d.segments {
			old := d.segments[i].Load()
			doubled.segments[2*i].Store(old)
			doubled.segments[2*i+1].Store(old)
		}
		t.directory.Store(doubled)
		d = doubled
	}
	halves := [2]*segment{newSegment(s.depth+1, maxSegment), newSegment(s.depth+1, maxSegment)}
	for h, n := range s.all {
		halves[h>>(63-s.depth)&1].insert(h, n)
	}
	span := 1 << (d.depth - s.depth)
	first := int(hash>>1>>(63-d.depth)) &^ (span - 1)
	for i := range span {
		d.segments[first+i].Store(halves[i/(span/2)])
	}
}
