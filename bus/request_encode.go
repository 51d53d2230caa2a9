package bus

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// maxExpectedHeader is the longest expected value that is sent as a header.
const maxExpectedHeader = 256

// EncodeCommand encodes a command as a request. It fails as
// [kv.Command.Validate] does, and with [errors.ErrUnsupported] for a command
// that the wire does not have. The body of the message may share the memory of
// the command's value: nobody may write to it.
func (s Subjects) EncodeCommand(cmd kv.Command) (*nats.Msg, error) {
	if err := cmd.Validate(); err != nil {
		return nil, err
	}
	op := opOf(cmd.Op)
	if op == 0 {
		return nil, fmt.Errorf("%w: command %v on the bus", errors.ErrUnsupported, cmd.Op)
	}
	m, err := s.request(op, cmd.Key)
	if err != nil {
		return nil, err
	}
	switch op {
	case OpSet, OpCompareAndSwap, OpIncrement:
		if cmd.TTL != 0 {
			m.Header.Set(HeaderTTL, formatTTL(cmd.TTL))
		}
		if cmd.KeepTTL {
			m.Header.Set(HeaderKeepTTL, "true")
		}
	}
	switch op {
	case OpSet, OpCompareAndSwap:
		m.Data = bytesView(cmd.Value)
	case OpIncrement:
		m.Data = strconv.AppendInt(nil, cmd.Delta, 10)
	case OpTouch:
		m.Data = []byte(formatTTL(cmd.TTL))
	}
	switch cmd.Expect.Kind {
	case kv.ExpectValue:
		setExpected(m, cmd.Expect.Value)
	case kv.ExpectRevision:
		m.Header.Set(HeaderExpectedRevision, strconv.FormatUint(cmd.Expect.Revision, 10))
	}
	if cmd.RequestID != "" {
		m.Header.Set(HeaderRequestID, cmd.RequestID)
	}
	if t := cmd.Trace; validTraceParent(t.Parent) {
		m.Header.Set(HeaderTraceParent, t.Parent)
		if validTraceState(t.State) {
			m.Header.Set(HeaderTraceState, t.State)
		}
	}
	return m, nil
}

// setExpected writes the expected value as a header only if any client and any
// server keep it as it is: short, printable ASCII, no space at either end.
func setExpected(m *nats.Msg, value string) {
	if n := len(value); n > 0 && n <= maxExpectedHeader && isPrintable(value) && value[0] != ' ' && value[n-1] != ' ' {
		m.Header.Set(HeaderExpected, value)
		return
	}
	m.Header.Set(HeaderExpectedLength, strconv.Itoa(len(value)))
	body := make([]byte, 0, len(value)+len(m.Data))
	m.Data = append(append(body, value...), m.Data...)
}

// EncodeRead encodes a get, an exists or a ttl. It fails with
// [kv.ErrInvalidKey] or [kv.ErrInvalidArgument].
func (s Subjects) EncodeRead(op Op, key string, opts kv.ReadOptions) (*nats.Msg, error) {
	if op.Scope() != ScopeKey || op.Writes() {
		return nil, fmt.Errorf("%w: operation %v is no read of a key", kv.ErrInvalidArgument, op)
	}
	m, err := s.request(op, key)
	if err != nil {
		return nil, err
	}
	if err := setReadOptions(m, opts); err != nil {
		return nil, err
	}
	return m, nil
}

// EncodeQuery encodes keys, if q.KeysOnly is set, or a scan. MaxBytes is not on
// the wire. It fails with [kv.ErrInvalidKey] or [kv.ErrInvalidArgument].
func (s Subjects) EncodeQuery(q kv.Query) (*nats.Msg, error) {
	if q.KeysOnly {
		return s.encodeQuery(OpKeys, q)
	}
	return s.encodeQuery(OpScan, q)
}

// EncodeScan encodes a scan, which leaves the values out if q.KeysOnly is set.
// Unlike keys, it has the revisions and the deadlines. MaxBytes is not on the
// wire. It fails with [kv.ErrInvalidKey] or [kv.ErrInvalidArgument].
func (s Subjects) EncodeScan(q kv.Query) (*nats.Msg, error) {
	m, err := s.encodeQuery(OpScan, q)
	if err == nil && q.KeysOnly {
		m.Header.Set(HeaderKeysOnly, "true")
	}
	return m, err
}

func (s Subjects) encodeQuery(op Op, q kv.Query) (*nats.Msg, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	m, err := s.request(op, q.Prefix)
	if err != nil {
		return nil, err
	}
	if q.Cursor != "" {
		m.Header.Set(HeaderCursor, formatCursor(q.Cursor))
	}
	setSelection(m, q.Filter, q.Limit)
	if err := setReadOptions(m, q.ReadOptions); err != nil {
		return nil, err
	}
	return m, nil
}

// EncodeReplay encodes a replay. MaxBytes is not on the wire. It fails with
// [kv.ErrInvalidKey] or [kv.ErrInvalidArgument].
func (s Subjects) EncodeReplay(q kv.ReplayQuery) (*nats.Msg, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	m, err := s.request(OpReplay, q.Prefix)
	if err != nil {
		return nil, err
	}
	if q.After != 0 {
		m.Header.Set(HeaderFromRevision, strconv.FormatUint(q.After, 10))
	}
	setSelection(m, q.Filter, q.Limit)
	if err := setReadOptions(m, q.ReadOptions); err != nil {
		return nil, err
	}
	return m, nil
}

// EncodeInfo encodes a request for info. It fails with [kv.ErrInvalidArgument].
func (s Subjects) EncodeInfo(opts kv.ReadOptions) (*nats.Msg, error) {
	m := nats.NewMsg(s.prefix + "." + OpInfo.String())
	if err := setReadOptions(m, opts); err != nil {
		return nil, err
	}
	return m, nil
}

func (s Subjects) request(op Op, key string) (*nats.Msg, error) {
	subject, err := s.Subject(op, key)
	if err != nil {
		return nil, err
	}
	return nats.NewMsg(subject), nil
}

func setSelection(m *nats.Msg, filter kv.Filter, limit int) {
	if limit > 0 {
		m.Header.Set(HeaderLimit, strconv.Itoa(limit))
	}
	if !filter.IsZero() {
		m.Header.Set(HeaderFilter, filter.String())
	}
}

func setReadOptions(m *nats.Msg, opts kv.ReadOptions) error {
	switch opts.Consistency {
	case kv.DefaultConsistency:
	case kv.Linearizable:
		m.Header.Set(HeaderConsistency, linearizable)
	case kv.Eventual:
		m.Header.Set(HeaderConsistency, eventual)
	default:
		return fmt.Errorf("%w: unknown consistency %d", kv.ErrInvalidArgument, opts.Consistency)
	}
	if opts.MinRevision > 0 {
		m.Header.Set(HeaderMinRevision, strconv.FormatUint(opts.MinRevision, 10))
	}
	return nil
}
