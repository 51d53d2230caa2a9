package bus

import (
	"fmt"
	"math"
	"strconv"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// DecodeCommand decodes a request for an operation that writes. It fails with
// [kv.ErrInvalidKey] or [kv.ErrInvalidArgument]; a command that it returns has
// passed [kv.Command.Validate]. Its value may share the memory of body, to which
// nobody may write from now on.
func (s Subjects) DecodeCommand(op Op, subject string, header nats.Header, body []byte) (kv.Command, error) {
	cmd := kv.Command{Op: op.spec().command}
	if cmd.Op == 0 {
		return kv.Command{}, fmt.Errorf("%w: operation %v is no command", kv.ErrInvalidArgument, op)
	}
	var err error
	if cmd.Key, err = s.Key(op, subject); err != nil {
		return kv.Command{}, err
	}
	var hs headers
	if err = hs.readRequest(op, header); err != nil {
		return kv.Command{}, err
	}
	if cmd.TTL, err = parseHeader(&hs, idTTL, parseTTL); err != nil {
		return kv.Command{}, err
	}
	if cmd.KeepTTL, err = parseHeader(&hs, idKeepTTL, parseFlag); err != nil {
		return kv.Command{}, err
	}
	if cmd.Expect, body, err = hs.expectation(op, body); err != nil {
		return kv.Command{}, err
	}
	switch op {
	case OpSet, OpCompareAndSwap:
		if header != nil { // they are in the same block of memory, or nats.go could read none of them
			cmd.Value = string(body)
		} else {
			cmd.Value = stringView(body)
		}
	case OpIncrement:
		cmd.Delta, err = parseDelta(body)
	case OpTouch:
		if cmd.TTL, err = parseTTL(stringView(body)); err != nil {
			err = fmt.Errorf("%w: body: %w", kv.ErrInvalidArgument, err)
		}
	}
	if err != nil {
		return kv.Command{}, err
	}
	if cmd.RequestID, err = parseHeader(&hs, idRequestID, parseRequestID); err != nil {
		return kv.Command{}, err
	}
	cmd.Trace = hs.trace()
	return cmd, nil
}

// expectation reads what must hold, and returns the rest of the body, which is
// the new value. A compare-and-swap without an expectation creates.
func (hs *headers) expectation(op Op, body []byte) (kv.Expectation, []byte, error) {
	given := hs.present & expectHeaders
	if given&(given-1) != 0 {
		return kv.Expectation{}, nil, fmt.Errorf("%w: headers %v and %v; a request has one expectation at most",
			kv.ErrInvalidArgument, given.first(), (given & (given - 1)).first())
	}
	switch {
	case given.has(idExpected):
		value, _ := hs.text(idExpected)
		return kv.IfValue(value), body, nil
	case given.has(idExpectedLength):
		length, err := parseHeader(hs, idExpectedLength, parseRevision)
		if err != nil {
			return kv.Expectation{}, nil, err
		}
		if length > uint64(len(body)) {
			return kv.Expectation{}, nil, fmt.Errorf("%w: header %v is %d, the body has %d bytes",
				kv.ErrInvalidArgument, idExpectedLength, length, len(body))
		}
		return kv.IfValue(string(body[:length])), body[length:], nil
	case given.has(idExpectedRevision):
		revision, err := parseHeader(hs, idExpectedRevision, parseRevision)
		return kv.IfRevision(revision), body, err
	case op == OpCompareAndSwap:
		return kv.IfAbsent(), body, nil
	default:
		return kv.Expectation{}, body, nil
	}
}

// DecodeRead decodes a request for a get, an exists or a ttl. It fails with
// [kv.ErrInvalidKey] or [kv.ErrInvalidArgument].
func (s Subjects) DecodeRead(op Op, subject string, header nats.Header) (key string, opts kv.ReadOptions, err error) {
	if op.Scope() != ScopeKey || op.Writes() {
		return "", kv.ReadOptions{}, fmt.Errorf("%w: operation %v is no read of a key", kv.ErrInvalidArgument, op)
	}
	if key, err = s.Key(op, subject); err != nil {
		return "", kv.ReadOptions{}, err
	}
	var hs headers
	if err = hs.readRequest(op, header); err == nil {
		opts, err = hs.readOptions()
	}
	if err != nil {
		return "", kv.ReadOptions{}, err
	}
	return key, opts, nil
}

// DecodeQuery decodes a request for keys or a scan. The query's KeysOnly is set
// for keys, and for a scan that asks for it; its MaxBytes, which depends on what
// the bus carries, is not. It fails with [kv.ErrInvalidKey] or [kv.ErrInvalidArgument].
func (s Subjects) DecodeQuery(op Op, subject string, header nats.Header) (kv.Query, error) {
	if op != OpKeys && op != OpScan {
		return kv.Query{}, fmt.Errorf("%w: operation %v is no query", kv.ErrInvalidArgument, op)
	}
	var q kv.Query
	var err error
	if q.Prefix, err = s.Key(op, subject); err != nil {
		return kv.Query{}, err
	}
	var hs headers
	if err = hs.readRequest(op, header); err != nil {
		return kv.Query{}, err
	}
	if q.Filter, err = parseHeader(&hs, idFilter, kv.ParseFilter); err != nil {
		return kv.Query{}, err
	}
	if q.Limit, err = parseHeader(&hs, idLimit, parseLimit); err != nil {
		return kv.Query{}, err
	}
	if q.Cursor, err = parseHeader(&hs, idCursor, parseCursor); err != nil {
		return kv.Query{}, err
	}
	if q.ReadOptions, err = hs.readOptions(); err != nil {
		return kv.Query{}, err
	}
	if q.KeysOnly, err = parseHeader(&hs, idKeysOnly, parseFlag); err != nil {
		return kv.Query{}, err
	}
	q.KeysOnly = q.KeysOnly || op == OpKeys
	return q, nil
}

// DecodeReplay decodes a request for a replay. A cursor, which is where the
// page before ended, goes before KV-From-Revision. The query's MaxBytes is not
// set. It fails with [kv.ErrInvalidKey] or [kv.ErrInvalidArgument].
func (s Subjects) DecodeReplay(subject string, header nats.Header) (kv.ReplayQuery, error) {
	var q kv.ReplayQuery
	var err error
	if q.Prefix, err = s.Key(OpReplay, subject); err != nil {
		return kv.ReplayQuery{}, err
	}
	var hs headers
	if err = hs.readRequest(OpReplay, header); err != nil {
		return kv.ReplayQuery{}, err
	}
	if q.After, err = parseHeader(&hs, idFromRevision, parseRevision); err != nil {
		return kv.ReplayQuery{}, err
	}
	if cursor, _ := hs.token(idCursor); cursor != "" {
		if q.After, err = parseHeader(&hs, idCursor, parseRevision); err != nil {
			return kv.ReplayQuery{}, err
		}
	}
	if q.Filter, err = parseHeader(&hs, idFilter, kv.ParseFilter); err != nil {
		return kv.ReplayQuery{}, err
	}
	if q.Limit, err = parseHeader(&hs, idLimit, parseLimit); err != nil {
		return kv.ReplayQuery{}, err
	}
	if q.ReadOptions, err = hs.readOptions(); err != nil {
		return kv.ReplayQuery{}, err
	}
	return q, nil
}

// DecodeInfoRequest decodes a request for info: how fresh the answer must be. It
// fails with [kv.ErrInvalidArgument].
func DecodeInfoRequest(header nats.Header) (kv.ReadOptions, error) {
	var hs headers
	if err := hs.readRequest(OpInfo, header); err != nil {
		return kv.ReadOptions{}, err
	}
	return hs.readOptions()
}

func (hs *headers) readOptions() (opts kv.ReadOptions, err error) {
	if opts.Consistency, err = parseHeader(hs, idConsistency, parseConsistency); err != nil {
		return kv.ReadOptions{}, err
	}
	if opts.MinRevision, err = parseHeader(hs, idMinRevision, parseRevision); err != nil {
		return kv.ReadOptions{}, err
	}
	return opts, nil
}

// parseHeader parses one header; the zero value stands for one that is absent. The
// error names the header and wraps [kv.ErrInvalidArgument].
func parseHeader[T any](hs *headers, id headerID, parse func(string) (T, error)) (value T, err error) {
	s, ok := hs.token(id)
	if !ok {
		return value, nil
	}
	if value, err = parse(s); err != nil {
		var zero T
		return zero, fmt.Errorf("%w: header %v: %w", kv.ErrInvalidArgument, id, err)
	}
	return value, nil
}

func parseFlag(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, fmt.Errorf("%q is neither true nor false", clip(s))
	}
}

func parseRequestID(s string) (string, error) {
	if !kv.IsRequestID(s) {
		return "", fmt.Errorf("%q is not 1 to %d characters of printable ASCII without spaces", clip(s), kv.MaxRequestIDLength)
	}
	return s, nil
}

func parseLimit(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, strconv.IntSize-1)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no decimal of 1 to %d", clip(s), math.MaxInt)
	}
	return int(n), nil
}

// The texts of consistencies; the default one is not written.
const (
	linearizable = "linearizable"
	eventual     = "eventual"
)

func parseConsistency(s string) (kv.Consistency, error) {
	switch s {
	case linearizable:
		return kv.Linearizable, nil
	case eventual:
		return kv.Eventual, nil
	default:
		return 0, fmt.Errorf("%q is neither %s nor %s", clip(s), linearizable, eventual)
	}
}
