package replicated

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields reads the fields of one protobuf message, more strictly than protobuf
// asks: they come in the order of their numbers, each once, in the shortest
// encoding, and zeros are left out. So a message has one encoding only, and
// whatever else a decoder meets is a fault of the writer that it should not
// guess about. The first fault ends the reading and stays in err.
type fields struct {
	data []byte
	pos  int              // of what is to be read; cheaper to move than a slice, for the garbage collector
	many protowire.Number // the field that may come more than once, 0 for none
	num  protowire.Number // of the field that is being read
	typ  protowire.Type
	// version is that of the format of which the message is.
	version byte
	err     error
}

// next goes on to the next field; it is false at the end and at a fault.
func (f *fields) next() bool {
	if f.pos == len(f.data) {
		return false
	}
	num, typ := protowire.DecodeTag(f.consumeVarint())
	if f.err != nil {
		return false
	}
	if num <= f.num && (num != f.many || num != f.num) {
		f.fail("field %d after field %d", num, f.num)
		return false
	}
	f.num, f.typ = num, typ
	return true
}

// varint returns the value of a field that is a number.
func (f *fields) varint() uint64 {
	if f.typ != protowire.VarintType {
		f.fail("field %d has wire type %d", f.num, f.typ)
		return 0
	}
	v := f.consumeVarint()
	if v == 0 {
		f.fail("field %d is zero", f.num)
	}
	return v
}

// upTo returns the value of a field that is a number up to highest.
func (f *fields) upTo(highest uint64) uint64 {
	v := f.varint()
	if v > highest {
		f.fail("field %d is %d", f.num, v)
		return 0
	}
	return v
}

// natural returns the value of a field that is an int64 and not negative.
func (f *fields) natural() int64 { return int64(f.upTo(math.MaxInt64)) }

// message returns the value of a field that is a message. It is part of data.
func (f *fields) message() []byte {
	if f.typ != protowire.BytesType {
		f.fail("field %d has wire type %d", f.num, f.typ)
		return nil
	}
	size := f.consumeVarint()
	if size > uint64(len(f.data)-f.pos) {
		f.fail("field %d is truncated", f.num)
		return nil
	}
	start := f.pos
	f.pos += int(size)
	return f.data[start:f.pos:f.pos]
}

// inner returns the fields of a field that is a message.
func (f *fields) inner() fields { return fields{data: f.message(), version: f.version} }

// text returns a copy of the value of a field that is a string.
func (f *fields) text() string {
	v := f.message()
	if len(v) == 0 {
		f.fail("field %d is empty", f.num)
	}
	return string(v)
}

// maxWorkerSize is the length of the longest id of a worker.
const maxWorkerSize = 64

// worker returns the value of a field that is the id of a worker.
func (f *fields) worker() string {
	v := f.text()
	if len(v) > maxWorkerSize {
		f.fail("the worker's id has %d bytes", len(v))
		return ""
	}
	for i := range len(v) {
		if v[i] >= 0x80 {
			f.fail("the worker's id %q is not ASCII", v)
			return ""
		}
	}
	return v
}

// unknown is for a field that the message does not have.
func (f *fields) unknown() { f.fail("unknown field %d", f.num) }

// since is for a field that the message has since a version of the format.
func (f *fields) since(version byte) {
	if f.version < version {
		f.unknown()
	}
}

// finish is for the last field that a message may have.
func (f *fields) finish() {
	if f.next() {
		f.unknown()
	}
}

func (f *fields) consumeVarint() uint64 {
	if f.pos < len(f.data) && f.data[f.pos] < 0x80 {
		f.pos++
		return uint64(f.data[f.pos-1])
	}
	v, n := protowire.ConsumeVarint(f.data[f.pos:])
	switch {
	case n < 0:
		f.fail("%w", protowire.ParseError(n))
		return 0
	case f.data[f.pos+n-1] == 0:
		f.fail("an overlong number after field %d", f.num)
		return 0
	}
	f.pos += n
	return v
}

// fail notes the first fault, and leaves nothing to read.
func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
	f.pos = len(f.data)
}

// within notes a fault in an inner message, if there was one.
func (f *fields) within(message string, err error) {
	if err != nil {
		f.fail("%s: %w", message, err)
	}
}

// A zero is not written: the sizes and the append functions of fields below
// leave it out. All field numbers are below 16, so that a tag is one byte.

func sizeNumber(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeText(s string) int {
	if s == "" {
		return 0
	}
	return sizeMessage(len(s))
}

// sizeMessage is the size of a field that is a message of that size.
func sizeMessage(size int) int { return 1 + protowire.SizeBytes(size) }

func appendNumber(dst []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(append(dst, byte(num<<3)|byte(protowire.VarintType)), v)
}

func appendText(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return append(appendMessage(dst, num, len(s)), s...)
}

// appendMessage begins a field that is a message of that size.
func appendMessage(dst []byte, num protowire.Number, size int) []byte {
	return protowire.AppendVarint(append(dst, byte(num<<3)|byte(protowire.BytesType)), uint64(size))
}
