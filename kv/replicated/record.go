package replicated

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kvbus/kv"
)

// A batch is what one worker appends to the log as one message.
//
// # Format
//
// A record is the magic bytes "kvbr", a byte with the version of the format,
// the CRC-32C of the rest as four bytes, the lowest first, and a message Batch
// in the wire format of protobuf:
//
//	syntax = "proto3";
//
//	message Batch {
//	  string worker = 1;
//	  uint64 number = 2;
//	  uint64 base = 3;
//	  repeated Command commands = 4;
//	}
//
//	message Command {
//	  uint32 op = 1;
//	  bytes key = 2;
//	  bytes value = 3;
//	  sint64 delta = 4;
//	  uint64 ttl = 5; // in nanoseconds
//	  bool keep_ttl = 6;
//	  uint32 expect_kind = 7;
//	  bytes expect_value = 8;
//	  uint64 expect_revision = 9;
//	  Limits limits = 10; // of OpSetLimits, which always has it, and of no other
//	  Trace trace = 11;
//	  bytes request_id = 12; // since version 2
//	}
//
//	message Limits {
//	  uint64 max_keys = 1;
//	  uint64 max_value_size = 2;
//	  uint64 max_bytes = 3;
//	  uint64 max_request_ids = 4; // since version 2
//	  uint64 max_request_age = 5; // since version 2, in nanoseconds
//	}
//
//	message Trace {
//	  bytes parent = 1;
//	  bytes state = 2;
//	}
//
// Every batch has exactly one encoding in a version, which is the only one that
// is decoded: fields in the order of their numbers, zeros left out, numbers not
// padded. A new field or operation needs a new version, because a worker that
// left out what it does not know would come to another state than the others.
// The last version is written, all are read.
type batch struct {
	Worker   string       // id of the worker's process, ASCII, up to 64 bytes
	Number   uint64       // counts the worker's batches from 1
	Base     uint64       // all of the worker's batches before this number are settled
	Commands []kv.Command // may be empty: a batch that only moves the time or answers reads
}

const (
	recordMagic      = "kvbr"
	recordVersion    = 2
	recordHeaderSize = len(recordMagic) + 1 + 4

	// recordOverhead is an upper bound of what a record has beside commands.
	recordOverhead = recordHeaderSize + 2 + maxWorkerSize + 2*(1+binary.MaxVarintLen64)

	// lastOp and lastExpectKind are the last ones of this version.
	lastOp         = kv.OpSweep
	lastExpectKind = kv.ExpectRevision
)

// errRecord is wrapped by every error of decodeBatch.
var errRecord = errors.New("unreadable log record")

// append appends the record to dst. The worker's id must be as said above and
// the commands valid, as [kv.Command.Validate] says, or nobody can decode it.
func (b *batch) append(dst []byte) []byte {
	dst = append(dst, recordMagic...)
	dst = append(dst, recordVersion, 0, 0, 0, 0)
	body := len(dst)
	dst = appendText(dst, 1, b.Worker)
	dst = appendNumber(dst, 2, b.Number)
	dst = appendNumber(dst, 3, b.Base)
	for i := range b.Commands {
		cmd := &b.Commands[i]
		dst = appendMessage(dst, 4, sizeCommand(cmd))
		dst = appendCommand(dst, cmd)
	}
	binary.LittleEndian.PutUint32(dst[body-4:], checksum(dst[body:]))
	return dst
}

// commandSize returns how many bytes cmd adds to a record.
func commandSize(cmd *kv.Command) int { return sizeMessage(sizeCommand(cmd)) }

// sizeCommand returns the length of what appendCommand appends.
func sizeCommand(cmd *kv.Command) int {
	size := sizeNumber(uint64(cmd.Op)) + sizeText(cmd.Key) + sizeText(cmd.Value) +
		sizeNumber(protowire.EncodeZigZag(cmd.Delta)) +
		sizeNumber(uint64(cmd.TTL)) + sizeNumber(protowire.EncodeBool(cmd.KeepTTL)) +
		sizeNumber(uint64(cmd.Expect.Kind)) + sizeText(cmd.Expect.Value) + sizeNumber(cmd.Expect.Revision)
	if cmd.Op == kv.OpSetLimits {
		size += sizeMessage(sizeLimits(&cmd.Limits))
	}
	if cmd.Trace != (kv.Trace{}) {
		size += sizeMessage(sizeTrace(&cmd.Trace))
	}
	return size + sizeText(cmd.RequestID)
}

func appendCommand(dst []byte, cmd *kv.Command) []byte {
	dst = appendNumber(dst, 1, uint64(cmd.Op))
	dst = appendText(dst, 2, cmd.Key)
	dst = appendText(dst, 3, cmd.Value)
	dst = appendNumber(dst, 4, protowire.EncodeZigZag(cmd.Delta))
	dst = appendNumber(dst, 5, uint64(cmd.TTL))
	dst = appendNumber(dst, 6, protowire.EncodeBool(cmd.KeepTTL))
	dst = appendNumber(dst, 7, uint64(cmd.Expect.Kind))
	dst = appendText(dst, 8, cmd.Expect.Value)
	dst = appendNumber(dst, 9, cmd.Expect.Revision)
	if cmd.Op == kv.OpSetLimits {
		dst = appendMessage(dst, 10, sizeLimits(&cmd.Limits))
		dst = appendLimits(dst, &cmd.Limits)
	}
	if cmd.Trace != (kv.Trace{}) {
		dst = appendMessage(dst, 11, sizeTrace(&cmd.Trace))
		dst = appendText(dst, 1, cmd.Trace.Parent)
		dst = appendText(dst, 2, cmd.Trace.State)
	}
	return appendText(dst, 12, cmd.RequestID)
}

func sizeTrace(t *kv.Trace) int { return sizeText(t.Parent) + sizeText(t.State) }

func sizeLimits(l *kv.Limits) int {
	return sizeNumber(uint64(l.MaxKeys)) + sizeNumber(uint64(l.MaxValueSize)) + sizeNumber(uint64(l.MaxBytes)) +
		sizeNumber(uint64(l.MaxRequestIDs)) + sizeNumber(uint64(l.MaxRequestAge))
}

func appendLimits(dst []byte, l *kv.Limits) []byte {
	dst = appendNumber(dst, 1, uint64(l.MaxKeys))
	dst = appendNumber(dst, 2, uint64(l.MaxValueSize))
	dst = appendNumber(dst, 3, uint64(l.MaxBytes))
	dst = appendNumber(dst, 4, uint64(l.MaxRequestIDs))
	return appendNumber(dst, 5, uint64(l.MaxRequestAge))
}

// decodeBatch decodes a record. It fails with [errRecord].
//
// The batch keeps nothing of data. Each key and each value is a string of its
// own: a key may live for years after the other keys of its batch, and after
// the value that came with it, and would keep the memory of whatever it shared
// an allocation with.
func decodeBatch(data []byte) (batch, error) {
	version, body, err := openRecord(data)
	if err != nil {
		return batch{}, fmt.Errorf("%w: %w", errRecord, err)
	}
	var b batch
	f := fields{data: body, version: version, many: 4}
	for f.next() {
		switch f.num {
		case 1:
			b.Worker = f.worker()
		case 2:
			b.Number = f.varint()
		case 3:
			b.Base = f.varint()
		case 4:
			if b.Commands == nil {
				b.Commands = make([]kv.Command, 0, countMessages(&f))
			}
			b.Commands = append(b.Commands, kv.Command{})
			n := len(b.Commands)
			if err := decodeCommand(f.inner(), &b.Commands[n-1]); err != nil {
				f.fail("command %d: %w", n, err)
			}
		default:
			f.unknown()
		}
	}
	if f.err != nil {
		return batch{}, fmt.Errorf("%w: %w", errRecord, f.err)
	}
	return b, nil
}

// openRecord checks what is around the message Batch, and returns that and the
// version of the format.
func openRecord(data []byte) (version byte, body []byte, err error) {
	if len(data) < recordHeaderSize {
		return 0, nil, fmt.Errorf("%d bytes are less than its header", len(data))
	}
	if magic := data[:len(recordMagic)]; string(magic) != recordMagic {
		return 0, nil, fmt.Errorf("it begins with %q instead of %q", magic, recordMagic)
	}
	if version = data[len(recordMagic)]; version == 0 || version > recordVersion {
		return 0, nil, fmt.Errorf("it has version %d of the format; this worker knows versions 1 to %d", version, recordVersion)
	}
	body = data[recordHeaderSize:]
	if want, got := binary.LittleEndian.Uint32(data[recordHeaderSize-4:]), checksum(body); got != want {
		return 0, nil, fmt.Errorf("its checksum is %08x instead of %08x", got, want)
	}
	return version, body, nil
}

// countMessages returns how often the field that f is at comes in a row, so
// that a list is allocated once and in proportion to what there is. It stops
// at what is malformed, as the decoding will.
func countMessages(f *fields) int {
	ahead := *f
	n := 0
	for ok := true; ok && ahead.num == f.num; ok = ahead.next() {
		ahead.message()
		n++
	}
	return n
}

func decodeCommand(f fields, cmd *kv.Command) error {
	limits := false
	for f.next() {
		switch f.num {
		case 1:
			cmd.Op = kv.Op(f.upTo(uint64(lastOp)))
		case 2:
			cmd.Key = f.text()
		case 3:
			cmd.Value = f.text()
		case 4:
			cmd.Delta = protowire.DecodeZigZag(f.varint())
		case 5:
			cmd.TTL = time.Duration(f.natural())
		case 6:
			cmd.KeepTTL = f.upTo(1) == 1
		case 7:
			cmd.Expect.Kind = kv.ExpectKind(f.upTo(uint64(lastExpectKind)))
		case 8:
			cmd.Expect.Value = f.text()
		case 9:
			cmd.Expect.Revision = f.varint()
		case 10:
			limits = true
			cmd.Limits = f.limits()
		case 11:
			cmd.Trace = f.trace()
		case 12:
			f.since(2)
			cmd.RequestID = f.text()
		default:
			f.unknown()
		}
	}
	switch { // only the first fault counts
	case cmd.Op == 0:
		f.fail("it has no operation")
	case limits != (cmd.Op == kv.OpSetLimits):
		f.fail("operation %v, limits: %v", cmd.Op, limits)
	}
	return f.err
}

// trace returns the value of a field that is a Trace.
func (f *fields) trace() kv.Trace {
	var t kv.Trace
	in := f.inner()
	for in.next() {
		switch in.num {
		case 1:
			t.Parent = in.text()
		case 2:
			t.State = in.text()
		default:
			in.unknown()
		}
	}
	f.within("trace", in.err)
	return t
}

// limits returns the value of a field that is a Limits.
func (f *fields) limits() kv.Limits {
	var l kv.Limits
	in := f.inner()
	for in.next() {
		switch in.num {
		case 1:
			l.MaxKeys = in.natural()
		case 2:
			l.MaxValueSize = in.natural()
		case 3:
			l.MaxBytes = in.natural()
		case 4:
			in.since(2)
			l.MaxRequestIDs = in.natural()
		case 5:
			in.since(2)
			l.MaxRequestAge = time.Duration(in.natural())
		default:
			in.unknown()
		}
	}
	f.within("limits", in.err)
	return l
}
