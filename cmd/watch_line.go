package cmd

import (
	"encoding/json"
	"io"
	"time"
	"unicode/utf8"

	"kvbus/bus"
	"kvbus/kv"
)

// A changeLine is what kvbus watch prints of a change.
type changeLine struct {
	Op               string     `json:"op"`
	Key              string     `json:"key,omitempty"`
	Revision         uint64     `json:"revision"`
	PreviousRevision *uint64    `json:"previous_revision,omitempty"`
	Time             *time.Time `json:"time,omitempty"`
	ExpiresAt        *time.Time `json:"expires_at,omitempty"`
	Value            *string    `json:"value,omitempty"`
	Base64           []byte     `json:"value_base64,omitempty"`
}

// writeChange writes a change as a line, in one piece.
func writeChange(w io.Writer, c bus.Change) error {
	line := changeLine{Op: c.Kind.String(), Revision: c.Revision}
	switch c.Kind {
	case bus.ChangeState:
		line.Key = c.Entry.Key
		line.setDeadline(c.Entry.ExpiresAt)
		line.setValue(c.Entry.Value)
	case bus.ChangeEvent:
		line.Op, line.Key = c.Event.Kind.String(), c.Event.Key
		line.PreviousRevision, line.Time = &c.Event.PreviousRevision, &c.Event.Time
		line.setDeadline(c.Event.ExpiresAt)
		if c.Event.Kind == kv.EventSet {
			line.setValue(c.Event.Value)
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(line)
}

func (l *changeLine) setDeadline(at time.Time) {
	if !at.IsZero() {
		l.ExpiresAt = &at
	}
}

func (l *changeLine) setValue(value string) {
	if utf8.ValidString(value) {
		l.Value = &value
	} else {
		l.Base64 = []byte(value)
	}
}
