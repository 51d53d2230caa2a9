package bus

import (
	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// Event is the message that tells of a mutation, on the subject of its key.
func (e *Encoder) Event(s Subjects, ev kv.Event) *nats.Msg {
	e.start()
	e.text = s.appendEvent(e.text, ev.Key)
	e.parts = append(e.parts, textPart{headerCount, 0, len(e.text)})
	e.addEvent(ev)
	return e.finish()
}

// addEvent adds the body and the headers that an event has wherever it is told.
func (e *Encoder) addEvent(ev kv.Event) {
	e.msg.Data = bytesView(ev.Value)
	e.set(idOperation, ev.Kind.String())
	e.addDecimal(idRevision, ev.Revision)
	e.addDecimal(idPreviousRevision, ev.PreviousRevision)
	e.addTime(idTime, ev.Time)
	e.addTime(idExpiresAt, ev.ExpiresAt)
	if t := ev.Trace; t.Parent != "" {
		e.set(idTraceParent, t.Parent)
		if t.State != "" {
			e.set(idTraceState, t.State)
		}
	}
}

// DecodeEvent decodes an event. It fails with [kv.ErrInvalidKey] if the subject
// is not that of an event, and with [kv.ErrInternal] if the message is
// malformed.
func (s Subjects) DecodeEvent(m *nats.Msg) (kv.Event, error) {
	key, err := s.EventKey(m.Subject)
	if err != nil {
		return kv.Event{}, err
	}
	var hs headers
	hs.read(m.Header)
	return hs.event(key, m.Data)
}

func (hs *headers) event(key string, body []byte) (kv.Event, error) {
	for _, id := range [...]headerID{idOperation, idRevision, idPreviousRevision, idTime} {
		if !hs.present.has(id) {
			return kv.Event{}, malformed("header %v is missing", id)
		}
	}
	ev := kv.Event{Key: key, Value: string(body), Trace: hs.trace()}
	operation, _ := hs.token(idOperation)
	var err error
	if ev.Kind, err = kv.ParseEventKind(operation); err != nil {
		return kv.Event{}, malformed("header %v: %q", idOperation, clip(operation))
	}
	if ev.Revision, err = hs.decimal(idRevision); err != nil {
		return kv.Event{}, err
	}
	if ev.PreviousRevision, err = hs.decimal(idPreviousRevision); err != nil {
		return kv.Event{}, err
	}
	if ev.Time, err = hs.time(idTime); err != nil {
		return kv.Event{}, err
	}
	if ev.ExpiresAt, err = hs.time(idExpiresAt); err != nil {
		return kv.Event{}, err
	}
	return ev, nil
}
