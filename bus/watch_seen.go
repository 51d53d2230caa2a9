package bus

import "slices"

// maxSeen is how many revisions a watch remembers. Each has 8 bytes.
const maxSeen = 8192

// seen are the revisions of events that were given and that are not proven, in rising
// order. After an audit that came too late they are also of events that a later one
// has covered.
type seen struct{ revisions []uint64 }

// nearlyForgets reports whether the next ones may make it forget some that are above
// a revision.
func (s *seen) nearlyForgets(revision uint64) bool {
	return len(s.revisions)-s.upTo(revision) >= maxSeen/2
}

// upTo returns how many are not above a revision.
func (s *seen) upTo(revision uint64) int {
	i, found := slices.BinarySearch(s.revisions, revision)
	if found {
		i++
	}
	return i
}

func (s *seen) has(revision uint64) bool {
	_, found := slices.BinarySearch(s.revisions, revision)
	return found
}

// add takes the next revision, which is higher than all before. Where there is no
// room, it forgets those that are covered by an audit up to a revision, or else the
// older half, and returns the last of them, else 0.
func (s *seen) add(revision, audited uint64) (forgotten uint64) {
	if len(s.revisions) == maxSeen {
		oldest := s.upTo(audited)
		if oldest == 0 {
			oldest = maxSeen / 2
		}
		forgotten = s.revisions[oldest-1]
		s.forget(forgotten)
	}
	s.revisions = append(s.revisions, revision)
	return forgotten
}

// forget drops what is not above a revision.
func (s *seen) forget(revision uint64) {
	s.revisions = append(s.revisions[:0], s.revisions[s.upTo(revision):]...)
}
