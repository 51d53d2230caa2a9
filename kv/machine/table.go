package machine

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// A table finds nodes by key. One writer changes it; any number of readers
// look things up at the same time without waiting.
//
// It is an extendible hash: a directory, indexed by the leading bits of the
// hash, of segments that split, shed their tombstones and merge again one at a
// time, so that no single insert or removal pays for the size of the table. A
// segment that is replaced stays as it was for the readers that are still in it;
// they find what was there when they started, which is as good as having read then.
//
// The seed is random. It can't be seen in any answer: nothing is listed in the
// order of the table.
type table struct {
	seed      maphash.Seed
	directory atomic.Pointer[directory]
	deepest   int // segments that need all bits of the directory; the writer's
}

type directory struct {
	depth    uint // leading bits of the hash that are the index
	segments []atomic.Pointer[segment]
}

// A segment is an open-addressing table of groups, with linear probing.
type segment struct {
	groups [segmentGroups]group
	depth  uint // leading bits of the hash that all its nodes share
	live   int
	used   int // live and removed ones
}

// groupSlots is the number of nodes in a group.
const groupSlots = 7

// A group is as large as a cache line: a look at its tags, a byte for each node
// with 7 bits of its hash, tells nearly always which of the nodes is meant, and
// whether a probe goes on to the next group.
type group struct {
	tags  atomic.Uint64
	nodes [groupSlots]atomic.Pointer[node]
}

// A tag has its highest bit set; the others are no hash's.
const (
	tagEmpty   = 0
	tagRemoved = 1

	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
	allSlots = 0x00ffffffffffffff
)

// tagOf returns the tag of a hash, whose lowest bits choose the group.
func tagOf(hash uint64) uint64 { return hash>>(64-7-maxDepth)&0x7f | 0x80 }

// matches returns the highest bit of each byte of tags that equals tag. It may
// report a byte above a match too, which the comparison of keys rules out.
func matches(tags, tag uint64) uint64 {
	x := tags ^ tag*lowBits
	return (x - lowBits) &^ x & highBits & allSlots
}

const (
	segmentGroups = 64
	maxDepth      = 32 // leading bits of the hash that the directory may use

	// Two segments that have no more nodes than this merge: half of what the halves of
	// a split have, so that keys which come and go don't split and merge them in turn.
	mergedMost = segmentGroups * groupSlots / 4
)

func (t *table) init() {
	t.seed = maphash.MakeSeed()
	d := &directory{segments: make([]atomic.Pointer[segment], 1)}
	d.segments[0].Store(&segment{})
	t.directory.Store(d)
	t.deepest = 1
}

func (t *table) hash(key string) uint64 { return maphash.String(t.seed, key) }

func (d *directory) at(hash uint64) *atomic.Pointer[segment] {
	return &d.segments[hash>>1>>(63-d.depth)]
}

// get returns the node of key, nil if there is none. Nearly always it is the first
// with its tag, in the first group, which is all that this looks at. A lookup waits
// for memory, and the fewer instructions it has, the more of them a processor has
// under way at a time.
func (t *table) get(key string) *node {
	hash := t.hash(key)
	s := t.directory.Load().at(hash).Load()
	g := &s.groups[hash%segmentGroups]
	if found := matches(g.tags.Load(), tagOf(hash)); found != 0 {
		if n := g.nodes[bits.TrailingZeros64(found)/8].Load(); n != nil && n.key == key {
			return n
		}
	}
	return t.search(key)
}

// search is get without a guess.
func (t *table) search(key string) *node {
	hash := t.hash(key)
	s := t.directory.Load().at(hash).Load()
	tag := tagOf(hash)
	for i := hash; ; i++ {
		g := &s.groups[i%segmentGroups]
		tags := g.tags.Load()
		for found := matches(tags, tag); found != 0; found &= found - 1 {
			n := g.nodes[bits.TrailingZeros64(found)/8].Load()
			if n != nil && n.key == key {
				return n
			}
		}
		if matches(tags, tagEmpty) != 0 {
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
	s := t.directory.Load().at(hash).Load()
	for i := hash; ; i++ {
		g := &s.groups[i%segmentGroups]
		for slot := range g.nodes {
			if g.nodes[slot].Load() != n {
				continue
			}
			// No probe went past a group that is not full, and none needs to now.
			tag := uint64(tagRemoved)
			if matches(g.tags.Load(), tagEmpty) != 0 {
				tag = tagEmpty
				s.used--
			}
			s.live--
			g.setTag(slot, tag)
			g.nodes[slot].Store(nil)
			t.shrink(hash, s)
			return
		}
	}
}

func (g *group) setTag(slot int, tag uint64) {
	shift := slot * 8
	g.tags.Store(g.tags.Load()&^(0xff<<shift) | tag<<shift)
}

// full reports whether there is no room for one more; an eighth stays empty, so
// that probes are short and end.
func (s *segment) full() bool { return s.used >= segmentGroups*groupSlots*7/8 }

func (s *segment) insert(hash uint64, n *node) {
	for i := hash; ; i++ {
		g := &s.groups[i%segmentGroups]
		if empty := matches(g.tags.Load(), tagEmpty); empty != 0 {
			slot := bits.TrailingZeros64(empty) / 8
			// The tag comes last: it is what makes the node visible.
			g.nodes[slot].Store(n)
			g.setTag(slot, tagOf(hash))
			s.live++
			s.used++
			return
		}
	}
}

// grow makes room in the segment of hash: it drops tombstones if they are many,
// or splits the segment in two.
func (t *table) grow(hash uint64, s *segment) {
	if s.live >= segmentGroups*groupSlots/2 {
		t.split(hash, s)
		return
	}
	next := &segment{depth: s.depth}
	for n := range s.all {
		next.insert(t.hash(n.key), n)
	}
	t.replace(hash, next)
}

// all iterates over the live nodes of a segment.
func (s *segment) all(yield func(*node) bool) {
	for i := range s.groups {
		for slot := range s.groups[i].nodes {
			if n := s.groups[i].nodes[slot].Load(); n != nil && !yield(n) {
				return
			}
		}
	}
}

// replace puts next in all places of the directory for the bits that hash shares with
// its nodes.
func (t *table) replace(hash uint64, next *segment) {
	d := t.directory.Load()
	span := 1 << (d.depth - next.depth)
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
		d, t.deepest = doubled, 0
	}
	if s.depth+1 == d.depth {
		t.deepest += 2
	}
	halves := [2]*segment{{depth: s.depth + 1}, {depth: s.depth + 1}}
	for n := range s.all {
		h := t.hash(n.key)
		halves[h>>(63-s.depth)&1].insert(h, n)
	}
	span := 1 << (d.depth - s.depth)
	first := int(hash>>1>>(63-d.depth)) &^ (span - 1)
	for i := range span {
		d.segments[first+i].Store(halves[i/(span/2)])
	}
}

// shrink merges the segment of hash with the other half of what was split once, and
// that again, as long as both have few nodes.
func (t *table) shrink(hash uint64, s *segment) {
	for s.depth > 0 && s.live <= mergedMost {
		d := t.directory.Load()
		other := d.at(hash ^ 1<<(64-s.depth)).Load()
		if other.depth != s.depth || s.live+other.live > mergedMost {
			return
		}
		merged := &segment{depth: s.depth - 1}
		for _, half := range [...]*segment{s, other} {
			for n := range half.all {
				merged.insert(t.hash(n.key), n)
			}
		}
		t.replace(hash, merged)
		if s.depth == d.depth {
			t.deepest -= 2
			t.halve()
		}
		s = merged
	}
}

// halve makes the directory as small as the segments allow.
func (t *table) halve() {
	d := t.directory.Load()
	for t.deepest == 0 && d.depth > 0 {
		halved := &directory{depth: d.depth - 1, segments: make([]atomic.Pointer[segment], len(d.segments)/2)}
		for i := range halved.segments {
			s := d.segments[2*i].Load()
			halved.segments[i].Store(s)
			if s.depth == halved.depth {
				t.deepest++
			}
		}
		t.directory.Store(halved)
		d = halved
	}
}
