package bus

import "slices"

// maxSeen is how many revisions a watch remembers. Each has 8 bytes.
const maxSeen = 8192

// seen are the revisions of events that were given and that no audit has covered,
// in rising order.
type seen struct{ revisions []uint64 }

// halfFull reports whether the next ones may make it forget some.
func (s *seen) halfFull() bool { return len(s.revisions) >= maxSeen/2 }

func (s *seen) has(revision uint64) bool {
	_, found := slices.BinarySearch(s.revisions, revision)
	return found
}

// add takes the next revision, which is higher than all before. Where there is no
// room, it forgets the older half and returns the last of them, else 0.
func (s *seen) add(revision uint64) (forgotten uint64) {
	if len(s.revisions) == maxSeen {
		forgotten = s.revisions[maxSeen/2-1]
		s.forget(forgotten)
	}
	s.revisions = append(s.revisions, revision)
	return forgotten
}

// forget drops what is not above a revision.
func (s *seen) forget(revision uint64) {
	i, found := slices.BinarySearch(s.revisions, revision)
	if found {
		i++
	}
	s.revisions = append(s.revisions[:0], s.revisions[i:]...)
}
