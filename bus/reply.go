package bus

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// An Encoder builds replies and events in one message that it owns, so that a
// steady state allocates nothing. Each method returns that message; it, and all
// strings in it, are good until the next call. The caller sets the subject of a
// reply and publishes it, which copies it.
//
// The body may share the memory of a value of the store: nobody may write to
// it. The zero Encoder is ready. It is not safe for concurrent use.
type Encoder struct {
	msg nats.Msg
	// text collects the header values that have to be built, and the subject, which
	// are views of it; parts says which is where.
	text  []byte
	parts []textPart
	// values are the slices that the header map refers to. The headers of the message
	// are to be those in wanted; those in given are in the map.
	values        [headerCount][1]string
	wanted, given headerSet

	body []byte
	// streamed counts the messages of a stream before its end.
	streamed uint64
}

type textPart struct {
	id       headerID // headerCount for the subject
	from, to int
}

// Result answers a command. op is one for which [Op.Writes] holds.
func (e *Encoder) Result(op Op, r kv.Result) *nats.Msg {
	e.start()
	e.body = e.body[:0]
	switch op {
	case OpSet:
		e.body = strconv.AppendUint(e.body, r.Revision, 10)
	case OpIncrement, OpClear:
		e.body = strconv.AppendInt(e.body, r.Number, 10)
	default:
		e.body = strconv.AppendBool(e.body, r.Applied)
	}
	e.msg.Data = e.body
	// A compare-and-swap that did not hold says 0 for a key that is not there;
	// nowhere else is 0 a revision.
	if r.Revision > 0 || op == OpCompareAndSwap {
		e.addDecimal(idRevision, r.Revision)
	}
	e.addTime(idExpiresAt, r.ExpiresAt)
	return e.finish()
}

// Value answers a get.
func (e *Encoder) Value(entry kv.Entry) *nats.Msg {
	e.start()
	e.msg.Data = bytesView(entry.Value)
	e.addEntry(entry)
	return e.finish()
}

// Exists answers an exists: entry is nil where no live key is there.
func (e *Encoder) Exists(entry *kv.Entry) *nats.Msg {
	e.start()
	e.body = strconv.AppendBool(e.body[:0], entry != nil)
	e.msg.Data = e.body
	if entry != nil {
		e.addEntry(*entry)
	}
	return e.finish()
}

// TTL answers a ttl: the time that entry has left at now, at least 1ns.
func (e *Encoder) TTL(entry kv.Entry, now time.Time) *nats.Msg {
	e.start()
	left := time.Duration(0)
	if !entry.ExpiresAt.IsZero() {
		left = max(1, entry.ExpiresAt.Sub(now))
	}
	e.body = append(e.body[:0], formatTTL(left)...)
	e.msg.Data = e.body
	e.addEntry(entry)
	return e.finish()
}

// Keys answers keys.
func (e *Encoder) Keys(page kv.Page) *nats.Msg {
	e.start()
	e.body = e.body[:0]
	for i, entry := range page.Entries {
		if i > 0 {
			e.body = append(e.body, '\n')
		}
		e.body = append(e.body, entry.Key...)
	}
	e.msg.Data = e.body
	e.addDecimal(idCount, uint64(len(page.Entries)))
	e.addDecimal(idRevision, page.Revision)
	if page.Cursor != "" {
		e.set(idCursor, formatCursor(page.Cursor))
	}
	return e.finish()
}

// ScanEntry is one reply to a scan.
func (e *Encoder) ScanEntry(entry kv.Entry) *nats.Msg {
	e.start()
	e.msg.Data = bytesView(entry.Value)
	e.set(idKey, entry.Key)
	e.addEntry(entry)
	e.streamed++
	return e.finish()
}

// ScanEnd is the last reply to a scan: revision and cursor are those of the
// [kv.Page]. It tells how many [Encoder.ScanEntry] came before it.
func (e *Encoder) ScanEnd(revision uint64, cursor string) *nats.Msg {
	e.start()
	e.addEnd()
	e.addDecimal(idRevision, revision)
	if cursor != "" {
		e.set(idCursor, formatCursor(cursor))
	}
	return e.finish()
}

// ReplayEvent is one reply to a replay.
func (e *Encoder) ReplayEvent(ev kv.Event) *nats.Msg {
	e.start()
	e.set(idKey, ev.Key)
	e.addEvent(ev)
	e.streamed++
	return e.finish()
}

// ReplayEnd is the last reply to a replay: revision and more are those of the
// [kv.Replay]. It tells how many [Encoder.ReplayEvent] came before it.
func (e *Encoder) ReplayEnd(revision uint64, more bool) *nats.Msg {
	e.start()
	e.addEnd()
	e.addDecimal(idRevision, revision)
	if more {
		e.addDecimal(idCursor, revision)
	}
	return e.finish()
}

// Info answers an info.
func (e *Encoder) Info(info Info) (*nats.Msg, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	e.start()
	e.msg.Data = data
	return e.finish(), nil
}

// Error answers a request that failed.
func (e *Encoder) Error(err error) *nats.Msg {
	e.start()
	e.addFailure(err)
	return e.finish()
}

// CommandError answers a command that failed. A conflict tells the revision
// that the key is at, which is that of the result.
func (e *Encoder) CommandError(r kv.Result, err error) *nats.Msg {
	e.start()
	e.addFailure(err)
	if errors.Is(err, kv.ErrConflict) {
		e.addDecimal(idRevision, r.Revision)
	}
	return e.finish()
}

// addEnd ends a stream: a reader whose connection was lost within it must see
// that something is missing.
func (e *Encoder) addEnd() {
	e.set(idEnd, "true")
	e.addDecimal(idCount, e.streamed)
	e.streamed = 0
}

func (e *Encoder) addFailure(err error) {
	e.streamed = 0 // it takes the place of the end
	f := FailureOf(err)
	e.set(idServiceErrorCode, f.Code)
	e.set(idServiceError, f.Description)
	e.set(idError, f.Name)
}

func (e *Encoder) addEntry(entry kv.Entry) {
	e.addDecimal(idRevision, entry.Revision)
	e.addTime(idExpiresAt, entry.ExpiresAt)
}

// start empties the message.
func (e *Encoder) start() {
	if e.msg.Header == nil {
		e.msg.Header = make(nats.Header)
	}
	e.msg.Subject, e.msg.Reply, e.msg.Data = "", "", nil
	e.text, e.parts, e.wanted = e.text[:0], e.parts[:0], 0
}

// set adds a header whose value is a string already.
func (e *Encoder) set(id headerID, value string) {
	e.values[id][0] = value
	e.wanted |= 1 << id
}

// addDecimal adds a header with a decimal, a revision or a count.
func (e *Encoder) addDecimal(id headerID, n uint64) {
	from := len(e.text)
	e.text = strconv.AppendUint(e.text, n, 10)
	e.parts = append(e.parts, textPart{id, from, len(e.text)})
}

// addTime adds a header with a time, and none for the zero time.
func (e *Encoder) addTime(id headerID, t time.Time) {
	if t.IsZero() {
		return
	}
	from := len(e.text)
	e.text = t.UTC().AppendFormat(e.text, time.RFC3339Nano)
	e.parts = append(e.parts, textPart{id, from, len(e.text)})
}

// finish completes the message. Most have the headers of the one before, and leave
// the map as it is.
func (e *Encoder) finish() *nats.Msg {
	text := stringView(e.text)
	for _, p := range e.parts {
		if p.id == headerCount {
			e.msg.Subject = text[p.from:p.to]
		} else {
			e.set(p.id, text[p.from:p.to])
		}
	}
	for old := e.given &^ e.wanted; old != 0; old &= old - 1 {
		delete(e.msg.Header, headerNames[old.first()])
	}
	for added := e.wanted &^ e.given; added != 0; added &= added - 1 {
		id := added.first()
		e.msg.Header[headerNames[id]] = e.values[id][:]
	}
	e.given = e.wanted
	return &e.msg
}
