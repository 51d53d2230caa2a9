package replicated

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// writeSnapshot writes a snapshot to w, block by block. The entries must be as
// many as the header says and sorted by key, else it fails: what it has
// written then is no snapshot.
func writeSnapshot(w io.Writer, h snapshotHeader, entries iter.Seq[kv.Entry]) error {
	s := snapshotWriter{w: w, block: append(make([]byte, 0, blockTarget), snapshotMagic...)}
	s.block = append(s.block, snapshotVersion)
	s.begin()
	if s.block = appendHeader(s.block, &h); s.size() > maxBlockSize {
		return fmt.Errorf("write snapshot: a header of %d bytes, with %d sessions", s.size(), len(h.Sessions))
	}
	if err := s.flush(); err != nil {
		return err
	}

	for i := range h.Requests {
		if err := s.request(&h.Requests[i]); err != nil {
			return err
		}
	}
	if s.size() > 0 { // a block has either requests or entries
		if err := s.flush(); err != nil {
			return err
		}
	}
	keys, last := uint64(0), ""
	for e := range entries {
		if e.Key <= last {
			return fmt.Errorf("write snapshot: key %q after %q", e.Key, last)
		}
		if err := s.entry(&e); err != nil {
			return err
		}
		keys, last = keys+1, e.Key
	}
	if keys != h.Keys {
		return fmt.Errorf("write snapshot: %d entries, the header says %d", keys, h.Keys)
	}
	if s.size() > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.block = appendMessage(s.block, blockEnd, sizeNumber(keys)+sizeNumber(uint64(s.sum)))
	s.block = appendNumber(s.block, 1, keys)
	s.block = appendNumber(s.block, 2, uint64(s.sum))
	return s.flush()
}

// A snapshotWriter writes blocks. A block is written at once, so that nothing
// buffers it a second time.
type snapshotWriter struct {
	w     io.Writer
	block []byte // what is to be written: a block, at first with the magic before it
	body  int    // where the body of the block starts
	sum   uint32 // of all that was written
}

// begin starts a block after what is there.
func (s *snapshotWriter) begin() {
	s.block = append(s.block, make([]byte, blockHeaderSize)...)
	s.body = len(s.block)
}

// size returns the length of the body of the block so far.
func (s *snapshotWriter) size() int { return len(s.block) - s.body }

// flush writes the block, and starts the next one.
func (s *snapshotWriter) flush() error {
	header := s.block[s.body-blockHeaderSize : s.body]
	binary.LittleEndian.PutUint32(header, uint32(s.size()))
	binary.LittleEndian.PutUint32(header[4:], checksum(s.block[s.body:]))
	if _, err := s.w.Write(s.block); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	s.sum = crc32.Update(s.sum, castagnoli, s.block)
	if s.block = s.block[:0]; cap(s.block) > 2*blockTarget {
		s.block = make([]byte, 0, blockTarget) // that of a large value
	}
	s.begin()
	return nil
}

// room starts another block if this one has no room for size bytes more.
func (s *snapshotWriter) room(size int) error {
	if s.size() > 0 && s.size()+size > blockTarget {
		return s.flush()
	}
	return nil
}

func (s *snapshotWriter) request(r *machine.Request) error {
	size := sizeMessage(len(r.ID)) + sizeMessage(len(r.Content)) +
		sizeNumber(uint64(r.Time)) + sizeNumber(r.Revision) + sizeNumber(uint64(r.Deadline)) +
		sizeNumber(protowire.EncodeZigZag(r.Number)) + sizeNumber(protowire.EncodeBool(r.Applied)) + sizeNumber(uint64(r.Failure))
	if err := s.room(sizeMessage(size)); err != nil {
		return err
	}
	s.block = appendMessage(s.block, blockRequests, size)
	s.block = append(appendMessage(s.block, 1, len(r.ID)), r.ID[:]...)
	s.block = append(appendMessage(s.block, 2, len(r.Content)), r.Content[:]...)
	s.block = appendNumber(s.block, 3, uint64(r.Time))
	s.block = appendNumber(s.block, 4, r.Revision)
	s.block = appendNumber(s.block, 5, uint64(r.Deadline))
	s.block = appendNumber(s.block, 6, protowire.EncodeZigZag(r.Number))
	s.block = appendNumber(s.block, 7, protowire.EncodeBool(r.Applied))
	s.block = appendNumber(s.block, 8, uint64(r.Failure))
	return nil
}

func (s *snapshotWriter) entry(e *kv.Entry) error {
	deadline, err := deadlineOf(e)
	if err != nil {
		return err
	}
	size := sizeText(e.Key) + sizeText(e.Value) + sizeNumber(e.Revision) + sizeNumber(deadline)
	field := sizeMessage(size)
	if field > maxBlockSize {
		return fmt.Errorf("write snapshot: the entry of key %q has %d bytes", e.Key, size)
	}
	if err := s.room(field); err != nil {
		return err
	}
	s.block = appendMessage(s.block, blockEntries, size)
	s.block = appendText(s.block, 1, e.Key)
	s.block = appendText(s.block, 2, e.Value)
	s.block = appendNumber(s.block, 3, e.Revision)
	s.block = appendNumber(s.block, 4, deadline)
	return nil
}

// deadlineOf returns the deadline of an entry in Unix nanoseconds, 0 for none.
func deadlineOf(e *kv.Entry) (uint64, error) {
	if e.ExpiresAt.IsZero() {
		return 0, nil
	}
	ns := e.ExpiresAt.UnixNano()
	if ns <= 0 || !time.Unix(0, ns).Equal(e.ExpiresAt) {
		return 0, fmt.Errorf("write snapshot: the deadline of key %q is %v, which a snapshot has no room for", e.Key, e.ExpiresAt)
	}
	return uint64(ns), nil
}

func appendHeader(dst []byte, h *snapshotHeader) []byte {
	size := sizeNumber(h.Sequence) + sizeNumber(uint64(h.Time)) + sizeNumber(h.Revision) + sizeNumber(h.Keys) +
		sizeMessage(sizeLimits(&h.Limits))
	for i := range h.Sessions {
		size += sizeMessage(sizeSession(&h.Sessions[i]))
	}
	dst = appendMessage(dst, blockHeader, size)
	dst = appendNumber(dst, 1, h.Sequence)
	dst = appendNumber(dst, 2, uint64(h.Time))
	dst = appendNumber(dst, 3, h.Revision)
	dst = appendNumber(dst, 4, h.Keys)
	dst = appendMessage(dst, 5, sizeLimits(&h.Limits))
	dst = appendLimits(dst, &h.Limits)
	for i := range h.Sessions {
		s := &h.Sessions[i]
		dst = appendMessage(dst, 6, sizeSession(s))
		dst = appendText(dst, 1, s.Worker)
		dst = appendNumber(dst, 2, s.Number)
		dst = appendNumber(dst, 3, uint64(s.Seen))
	}
	return dst
}

func sizeSession(s *session) int {
	return sizeText(s.Worker) + sizeNumber(s.Number) + sizeNumber(uint64(s.Seen))
}
