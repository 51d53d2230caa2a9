package machine

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"unsafe"

	"kvbus/kv"
)

// A Request is what is remembered of a command with a request id. It holds
// neither id nor key nor value, so all take the same room.
type Request struct {
	// ID is a digest of the operation, the key and the request id, Content one
	// of those and of all else that decides what the command does.
	ID, Content Digest
	// Time is when the command took effect, in Unix nanoseconds.
	Time int64

	// Revision, Deadline (in Unix nanoseconds, 0 for none), Number and Applied
	// are the [kv.Result].
	Revision uint64
	Deadline int64
	Number   int64
	Applied  bool
	// Failure says with what error the command failed, 0 for none.
	Failure Failure
}

// A Digest is the start of a SHA-256 sum. It is part of the state that machines
// share: what it is made of must not change.
type Digest [16]byte

// A Failure stands for an error that is remembered.
type Failure uint8

// The failures. Their numbers are part of the state that machines share.
const (
	FailureConflict Failure = iota + 1
	FailureNotANumber
	FailureValueTooLarge
	FailureQuotaExceeded
)

// failures are the errors that are remembered.
var failures = [...]error{
	FailureConflict:      kv.ErrConflict,
	FailureNotANumber:    kv.ErrNotANumber,
	FailureValueTooLarge: kv.ErrValueTooLarge,
	FailureQuotaExceeded: kv.ErrQuotaExceeded,
}

// Valid reports whether f is none or one of the failures.
func (f Failure) Valid() bool { return int(f) < len(failures) }

// failureOf returns the failure that err is, and false if it is none to be
// remembered.
func failureOf(err error) (Failure, bool) {
	if err == nil {
		return 0, true
	}
	for f, target := range failures {
		if errors.Is(err, target) {
			return Failure(f), true
		}
	}
	return 0, false
}

// outcome returns what the command was answered.
func (r *Request) outcome() (kv.Result, error) {
	result := kv.Result{Applied: r.Applied, Revision: r.Revision, ExpiresAt: instant(r.Deadline), Number: r.Number}
	if r.Failure != 0 {
		return result, fmt.Errorf("%w: when the request came first", failures[r.Failure])
	}
	return result, nil
}

// requests are the outcomes that are remembered, in the order of their commands.
type requests struct {
	byID map[Digest]*Request
	room int // how many byID has held at once
	list requestList
	tail *requestBlock
}

// keptRequests is for how many byID has room however few there are.
const keptRequests = 1024

// A requestList is a part of a list of blocks that is only ever appended to, so
// that a copy of it stays as it is.
type requestList struct {
	head  *requestBlock
	skip  int // requests at the start of the head that are forgotten
	count int
}

// A requestBlock never changes but for requests that come after all others.
type requestBlock struct {
	requests [requestBlockSize]Request
	next     *requestBlock
}

const requestBlockSize = 128

// all iterates over the requests, the oldest first.
func (l requestList) all(yield func(Request) bool) {
	for l.count > 0 {
		if !yield(l.head.requests[l.skip]) {
			return
		}
		l.drop()
	}
}

// drop takes the oldest request out.
func (l *requestList) drop() {
	l.skip++
	l.count--
	if l.skip == requestBlockSize && l.count > 0 { // else the next one may just be made
		l.head, l.skip = l.head.next, 0
	}
}

// add remembers a request that is not there, after all others.
func (q *requests) add(r Request) {
	if q.list.count == 0 {
		q.tail = &requestBlock{}
		q.list = requestList{head: q.tail}
		q.byID, q.room = make(map[Digest]*Request), 0 // one that was large stays so
	}
	i := (q.list.skip + q.list.count) % requestBlockSize
	if i == 0 && q.list.count > 0 {
		q.tail.next = &requestBlock{}
		q.tail = q.tail.next
	}
	q.tail.requests[i] = r
	q.byID[r.ID] = &q.tail.requests[i]
	q.list.count++
	q.room = max(q.room, q.list.count)
}

// forget takes out those that are older than the limits allow, and the oldest
// ones of those that are too many.
func (q *requests) forget(limits *kv.Limits, now int64) {
	if q.list.count == 0 {
		return
	}
	count, age := limits.RequestWindow()
	newest := &q.tail.requests[(q.list.skip+q.list.count-1)%requestBlockSize]
	if now-newest.Time >= int64(age) {
		*q = requests{}
		return
	}
	for {
		oldest := &q.list.head.requests[q.list.skip]
		if now-oldest.Time < int64(age) && int64(q.list.count) <= count {
			q.shrink()
			return
		}
		delete(q.byID, oldest.ID)
		q.list.drop()
	}
}

// shrink gives memory back that more requests took.
func (q *requests) shrink() {
	if q.room <= keptRequests || q.list.count > q.room/8 {
		return
	}
	byID := make(map[Digest]*Request, q.list.count)
	maps.Copy(byID, q.byID)
	q.byID, q.room = byID, q.list.count
}

// digests returns the digests of cmd. Parts that vary in length come after
// their length, so that no two commands are digested from the same text.
func digests(cmd *kv.Command) (id, content Digest) {
	var room [512]byte // longer keys take some of the heap
	text := append(room[:0], byte(cmd.Op))
	text = appendString(text, cmd.Key)
	text = appendString(text, cmd.RequestID)
	id = digest(text)
	text = binary.LittleEndian.AppendUint64(text, uint64(cmd.Delta))
	text = binary.LittleEndian.AppendUint64(text, uint64(cmd.TTL))
	text = binary.LittleEndian.AppendUint64(text, cmd.Expect.Revision)
	text = append(text, byte(cmd.Expect.Kind), 0)
	if cmd.KeepTTL {
		text[len(text)-1] = 1
	}
	for _, value := range [...]string{cmd.Expect.Value, cmd.Value} {
		sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(value), len(value)))
		text = append(text, sum[:]...)
	}
	return id, digest(text)
}

func appendString(text []byte, s string) []byte {
	return append(binary.AppendUvarint(text, uint64(len(s))), s...)
}

func digest(text []byte) Digest {
	sum := sha256.Sum256(text)
	return Digest(sum[:len(Digest{})])
}

// applyOnce is do for a command with a request id.
func (m *Machine) applyOnce(cmd *kv.Command, n *node) (kv.Result, error) {
	id, content := digests(cmd)
	if r := m.requests.byID[id]; r != nil {
		if r.Content != content {
			return kv.Result{}, fmt.Errorf("%w: request id %q was used for another %v of %q", kv.ErrInvalidArgument, cmd.RequestID, cmd.Op, cmd.Key)
		}
		return r.outcome()
	}
	result, err := m.do(cmd, n, 0)
	if failure, ok := failureOf(err); ok {
		r := Request{
			ID: id, Content: content, Time: m.now,
			Applied: result.Applied, Revision: result.Revision, Number: result.Number, Failure: failure,
		}
		if !result.ExpiresAt.IsZero() {
			r.Deadline = result.ExpiresAt.UnixNano()
		}
		m.requests.add(r)
		m.requests.forget(&m.limits, m.now)
	}
	return result, err
}

// Requests returns what the view froze of the outcomes that are remembered, in
// the order of their commands.
func (v *View) Requests() iter.Seq[Request] { return v.requests.all }
