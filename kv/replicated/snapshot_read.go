package replicated

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// readSnapshot reads a snapshot from r up to the end of r. The header, with the
// requests, is read at once, the entries as the sequence is iterated, which can
// be done once. An error is the last of the sequence: what came before it is to
// be thrown away. Until the sequence ended without one, all of it is unproven,
// the header too.
//
// Damage is an [errSnapshot]; an error of r comes as it is.
func readSnapshot(r io.Reader) (snapshotHeader, iter.Seq2[kv.Entry, error], error) {
	s := snapshotReader{r: bufio.NewReaderSize(r, blockTarget)}
	if err := s.magic(); err != nil {
		return snapshotHeader{}, nil, err
	}
	f, err := s.next()
	if err != nil {
		return snapshotHeader{}, nil, err
	}
	if f.num != blockHeader {
		return snapshotHeader{}, nil, damaged("it begins with block type %d instead of the header", f.num)
	}
	h := f.snapshotHeader()
	if f.finish(); f.err != nil {
		return snapshotHeader{}, nil, damaged("first block: %w", f.err)
	}
	s.keys = h.Keys
	for {
		if f, err = s.next(); err != nil {
			return snapshotHeader{}, nil, err
		}
		if f.num != blockRequests || f.version < 2 {
			s.first = f
			return h, s.entries, nil
		}
		f.many = blockRequests
		for ok := true; ok && f.num == blockRequests; ok = f.next() {
			h.Requests = append(h.Requests, f.request())
		}
		if f.num != blockRequests && f.err == nil {
			f.unknown()
		}
		if f.err != nil {
			return snapshotHeader{}, nil, damaged("block after %d requests: %w", len(h.Requests), f.err)
		}
	}
}

// damaged returns an error that wraps [errSnapshot].
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errSnapshot, fmt.Errorf(format, args...))
}

// A snapshotReader reads blocks.
type snapshotReader struct {
	r      *bufio.Reader
	body   []byte // of the last block, overwritten by the next one
	sum    uint32 // of all that was read
	before uint32 // of all that was read before the last block

	version byte   // of the format
	first   fields // of the first block after the requests

	keys uint64 // entries that the header promises
	read uint64 // entries read
	last string // key of the last one
}

// entries is the sequence that readSnapshot returns.
func (s *snapshotReader) entries(yield func(kv.Entry, error) bool) {
	for f := s.first; ; {
		if f.num == blockEnd {
			if err := s.end(&f); err != nil {
				yield(kv.Entry{}, err)
			}
			return
		}
		if f.num != blockEntries {
			yield(kv.Entry{}, damaged("block type %d after %d entries", f.num, s.read))
			return
		}
		f.many = blockEntries
		for ok := true; ok && f.num == blockEntries; ok = f.next() {
			e := f.entry()
			if f.err != nil {
				break
			}
			if err := s.count(&e); err != nil {
				yield(kv.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if f.num != blockEntries && f.err == nil {
			f.unknown()
		}
		if f.err != nil {
			yield(kv.Entry{}, damaged("block after %d entries: %w", s.read, f.err))
			return
		}
		var err error
		if f, err = s.next(); err != nil {
			yield(kv.Entry{}, err)
			return
		}
	}
}

// count checks that an entry is where it belongs.
func (s *snapshotReader) count(e *kv.Entry) error {
	switch {
	case e.Key <= s.last:
		return damaged("key %q after %q", e.Key, s.last)
	case s.read == s.keys:
		return damaged("more entries than the %d of the header", s.keys)
	}
	s.read++
	s.last = e.Key
	return nil
}

// end checks the last block against all before it, and that it is the last.
func (s *snapshotReader) end(f *fields) error {
	want := s.before
	keys, sum := uint64(0), uint64(0)
	in := f.inner()
	for in.next() {
		switch in.num {
		case 1:
			keys = in.varint()
		case 2:
			sum = in.upTo(math.MaxUint32)
		default:
			in.unknown()
		}
	}
	f.within("end", in.err)
	f.finish()
	switch {
	case f.err != nil:
		return damaged("last block: %w", f.err)
	case keys != s.keys || keys != s.read:
		return damaged("%d entries; the header says %d and the end %d", s.read, s.keys, keys)
	case sum != uint64(want):
		return damaged("the checksum of all is %08x instead of %08x", want, sum)
	}
	switch _, err := s.r.ReadByte(); err {
	case io.EOF:
		return nil
	case nil:
		return damaged("something follows its end")
	default:
		return fmt.Errorf("read snapshot: %w", err)
	}
}

func (s *snapshotReader) magic() error {
	data, err := s.bytes(len(snapshotMagic) + 1)
	if err != nil {
		return err
	}
	if magic := data[:len(snapshotMagic)]; string(magic) != snapshotMagic {
		return damaged("it begins with %q instead of %q", magic, snapshotMagic)
	}
	if s.version = data[len(snapshotMagic)]; s.version == 0 || s.version > snapshotVersion {
		return damaged("it has version %d of the format; this worker knows versions 1 to %d", s.version, snapshotVersion)
	}
	return nil
}

// next reads a block and goes to its first field.
func (s *snapshotReader) next() (fields, error) {
	s.before = s.sum
	header, err := s.bytes(blockHeaderSize)
	if err != nil {
		return fields{}, err
	}
	size, want := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint32(header[4:])
	if size > maxBlockSize {
		return fields{}, damaged("a block of %d bytes", size)
	}
	body, err := s.bytes(int(size))
	if err != nil {
		return fields{}, err
	}
	if got := checksum(body); got != want {
		return fields{}, damaged("the checksum of a block is %08x instead of %08x", got, want)
	}
	f := fields{data: body, version: s.version}
	if !f.next() {
		f.fail("it is empty")
		return fields{}, damaged("block after %d entries: %w", s.read, f.err)
	}
	return f, nil
}

// bytes reads the next size bytes. It makes room for them as they come,
// because a damaged length must not make room for what will never come.
func (s *snapshotReader) bytes(size int) ([]byte, error) {
	s.body = s.body[:0]
	for len(s.body) < size {
		have := len(s.body)
		part := min(size-have, max(have, blockTarget))
		s.body = slices.Grow(s.body, part)[:have+part]
		if _, err := io.ReadFull(s.r, s.body[have:]); err != nil {
			if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, damaged("it is truncated after %d entries", s.read)
			}
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
	}
	s.sum = crc32.Update(s.sum, castagnoli, s.body)
	return s.body, nil
}

// snapshotHeader returns the value of a field that is a Header.
func (f *fields) snapshotHeader() snapshotHeader {
	var h snapshotHeader
	in := f.inner()
	in.many = 6
	for in.next() {
		switch in.num {
		case 1:
			h.Sequence = in.varint()
		case 2:
			h.Time = int64(in.varint())
		case 3:
			h.Revision = in.varint()
		case 4:
			h.Keys = in.varint()
		case 5:
			h.Limits = in.limits()
		case 6:
			h.Sessions = append(h.Sessions, in.session())
		default:
			in.unknown()
		}
	}
	f.within("header", in.err)
	return h
}

func (f *fields) session() session {
	var s session
	in := f.inner()
	for in.next() {
		switch in.num {
		case 1:
			s.Worker = in.worker()
		case 2:
			s.Number = in.varint()
		case 3:
			s.Seen = int64(in.varint())
		default:
			in.unknown()
		}
	}
	f.within("session", in.err)
	return s
}

// entry returns the value of a field that is an Entry. Key and value are
// strings of their own, for the reason that decodeBatch gives.
func (f *fields) entry() kv.Entry {
	var e kv.Entry
	in := f.inner()
	for in.next() {
		switch in.num {
		case 1:
			e.Key = in.text()
		case 2:
			e.Value = in.text()
		case 3:
			e.Revision = in.varint()
		case 4:
			e.ExpiresAt = time.Unix(0, in.natural()).UTC()
		default:
			in.unknown()
		}
	}
	f.within("entry", in.err)
	return e
}

// request returns the value of a field that is a Request.
func (f *fields) request() machine.Request {
	var r machine.Request
	digests := 0
	in := f.inner()
	for in.next() {
		switch in.num {
		case 1:
			r.ID = in.digest()
			digests++
		case 2:
			r.Content = in.digest()
			digests++
		case 3:
			r.Time = int64(in.varint())
		case 4:
			r.Revision = in.varint()
		case 5:
			r.Deadline = in.natural()
		case 6:
			r.Number = protowire.DecodeZigZag(in.varint())
		case 7:
			r.Applied = in.upTo(1) == 1
		case 8:
			if r.Failure = machine.Failure(in.upTo(math.MaxUint8)); !r.Failure.Valid() {
				in.fail("unknown failure %d", r.Failure)
			}
		default:
			in.unknown()
		}
	}
	if in.err == nil && digests != 2 {
		in.fail("it has %d digests", digests)
	}
	f.within("request", in.err)
	return r
}

// digest returns the value of a field that is a digest.
func (f *fields) digest() (d machine.Digest) {
	if v := f.message(); len(v) != len(d) {
		f.fail("field %d has %d bytes", f.num, len(v))
	} else {
		copy(d[:], v)
	}
	return d
}
