package bus

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// heartbeatToken is where an operation has its name in the subject of
// heartbeats.
const heartbeatToken = "revision"

// HeaderEpoch is the header of a heartbeat that names the life of a store.
const HeaderEpoch = "KV-Epoch"

// A Heartbeat tells watchers, who may have lost the last event, how far the
// events came.
type Heartbeat struct {
	// Revision is that of the last event that was published.
	Revision uint64
	// Epoch names the life of a store that begins anew with its process: another
	// one tells that revisions have begun anew. It is empty for a durable store.
	Epoch string
}

// HeartbeatSubject returns the subject of the heartbeats.
func (s Subjects) HeartbeatSubject() string { return s.prefix + "." + heartbeatToken }

// EncodeHeartbeat encodes a heartbeat.
func (s Subjects) EncodeHeartbeat(h Heartbeat) *nats.Msg {
	m := nats.NewMsg(s.HeartbeatSubject())
	m.Data = strconv.AppendUint(nil, h.Revision, 10)
	if h.Epoch != "" {
		m.Header.Set(HeaderEpoch, h.Epoch)
	}
	return m
}

// DecodeHeartbeat is the inverse of [Subjects.EncodeHeartbeat]. It fails with
// [kv.ErrInternal] if the message is malformed.
func DecodeHeartbeat(m *nats.Msg) (Heartbeat, error) {
	revision, err := parseRevision(string(m.Data))
	if err != nil {
		return Heartbeat{}, fmt.Errorf("%w: heartbeat: %w", kv.ErrInternal, err)
	}
	h := Heartbeat{Revision: revision}
	for name, values := range m.Header {
		if strings.EqualFold(name, HeaderEpoch) && len(values) > 0 {
			h.Epoch = values[0]
		}
	}
	return h, nil
}
