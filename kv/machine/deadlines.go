package machine

import "math"

// deadlines is a queue of the live nodes that have a deadline: a heap with four
// children a place, ordered by deadline and then by revision.
//
// A node that gets a later deadline, or loses it, stays where it is, and is
// moved or dropped when it comes to the front: the usual renewal of a deadline
// costs nothing here. A node is in the queue at most once.
type deadlines struct {
	heap []deadline
}

// A deadline is a place in the queue, not after the node's true one.
type deadline struct {
	at       int64
	revision uint64
	node     *node
}

func (d deadline) before(e deadline) bool {
	return d.at < e.at || d.at == e.at && d.revision < e.revision
}

// keptDeadlines is how many places stay, however short the queue is.
const keptDeadlines = 1024

// update tells the queue that the node has a new version.
func (q *deadlines) update(n *node, v *version) {
	if v.deadline == 0 {
		return
	}
	entry := deadline{v.deadline, v.revision, n}
	if n.slot < 0 {
		q.heap = append(q.heap, entry)
		q.up(len(q.heap)-1, entry)
	} else if entry.before(q.heap[n.slot]) {
		q.up(int(n.slot), entry)
	}
}

// remove takes the node out, if it is in.
func (q *deadlines) remove(n *node) {
	i := int(n.slot)
	if i < 0 {
		return
	}
	n.slot = -1
	last := len(q.heap) - 1
	moved := q.heap[last]
	q.heap[last] = deadline{}
	q.heap = q.heap[:last]
	q.shrink()
	if i == last {
		return
	}
	if parent := (i - 1) / 4; i > 0 && moved.before(q.heap[parent]) {
		q.up(i, moved)
	} else {
		q.down(i, moved)
	}
}

// shrink gives memory back that a longer queue took. What is left has room to double
// before it moves again.
func (q *deadlines) shrink() {
	if n := len(q.heap); cap(q.heap) > keptDeadlines && n < cap(q.heap)/4 {
		q.heap = append(make([]deadline, 0, 2*n+1), q.heap...)
	}
}

// next returns the node with the earliest deadline, nil if there is none.
func (q *deadlines) next() *node {
	for len(q.heap) > 0 {
		front := q.heap[0]
		v := front.node.current.Load()
		switch {
		case v.deadline == 0:
			q.remove(front.node)
		case v.revision != front.revision: // no version's deadline changes
			q.down(0, deadline{v.deadline, v.revision, front.node})
		default:
			return front.node
		}
	}
	return nil
}

// bound returns a time that no deadline is before.
func (q *deadlines) bound() int64 {
	if len(q.heap) == 0 {
		return math.MaxInt64
	}
	return q.heap[0].at
}

// due returns the first node whose deadline is not after now, nil if there is
// none.
func (q *deadlines) due(now int64) *node {
	if q.bound() > now {
		return nil
	}
	if n := q.next(); q.bound() <= now {
		return n
	}
	return nil
}

// up puts entry at place i, or nearer to the front.
func (q *deadlines) up(i int, entry deadline) {
	for i > 0 {
		parent := (i - 1) / 4
		if !entry.before(q.heap[parent]) {
			break
		}
		q.put(i, q.heap[parent])
		i = parent
	}
	q.put(i, entry)
}

// down puts entry at place i, or farther from the front.
func (q *deadlines) down(i int, entry deadline) {
	for {
		child := 4*i + 1
		if child >= len(q.heap) {
			break
		}
		for other := child + 1; other < min(4*i+5, len(q.heap)); other++ {
			if q.heap[other].before(q.heap[child]) {
				child = other
			}
		}
		if !q.heap[child].before(entry) {
			break
		}
		q.put(i, q.heap[child])
		i = child
	}
	q.put(i, entry)
}

func (q *deadlines) put(i int, entry deadline) {
	q.heap[i] = entry
	entry.node.slot = int32(i)
}
