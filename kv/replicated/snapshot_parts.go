package replicated

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// partSize is the size of the parts in which a snapshot is stored, where the server
// takes messages of that size.
const partSize = 256 << 10

// partHeaders is an upper bound of the headers of a part.
const partHeaders = 128

// A partWriter stores what is written to it, in parts of the capacity of part.
type partWriter struct {
	ctx     context.Context
	store   *snapshotStore
	subject string
	part    []byte
	count   uint32 // parts that are stored
	size    uint64 // their bytes
	digest  hash.Hash
}

func (w *partWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), cap(w.part)-len(w.part))
		w.part = append(w.part, rest[:n]...)
		rest = rest[n:]
		if len(w.part) < cap(w.part) {
			break
		}
		if err := w.flush(); err != nil {
			return len(p) - len(rest), err
		}
	}
	return len(p), nil
}

// flush stores the part that was begun.
func (w *partWriter) flush() error {
	if len(w.part) == 0 {
		return nil
	}
	if err := w.store.publish(w.ctx, &nats.Msg{Subject: w.subject, Data: w.part}); err != nil {
		return err
	}
	w.digest.Write(w.part)
	w.count++
	w.size += uint64(len(w.part))
	w.part = w.part[:0]
	return nil
}

// A partReader reads a snapshot. Any server of the stream is asked for one part
// after the other, so there is no consumer that is lost with one of them.
type partReader struct {
	ctx      context.Context
	store    *snapshotStore
	snapshot storedSnapshot
	part     []byte // what was not read yet of the last one
	count    uint64 // of the parts
	next     uint64 // sequence after the last one
}

func (r *partReader) Read(p []byte) (int, error) {
	for len(r.part) == 0 {
		if r.count == r.snapshot.parts {
			return 0, io.EOF
		}
		if err := r.fetch(); err != nil {
			return 0, fmt.Errorf("part %d of %d: %w", r.count+1, r.snapshot.parts, err)
		}
	}
	n := copy(p, r.part)
	r.part = r.part[n:]
	return n, nil
}

// fetch fetches the next part. It asks again, which reaches another server, where one
// is silent.
func (r *partReader) fetch() error {
	ctx, cancel := context.WithTimeout(r.ctx, apiTimeout)
	defer cancel()
	subject := r.store.partsSubject(r.snapshot.id)
	for patience := askAgain; ; patience *= 2 {
		asked, cancel := context.WithTimeout(ctx, patience)
		m, err := r.store.stream.GetMsg(asked, max(r.next, 1), jetstream.WithGetMsgSubject(subject))
		cancel()
		switch {
		case err == nil:
			r.part, r.next = m.Data, m.Sequence+1
			r.count++
			return nil
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return r.store.missing(r.ctx, r.snapshot, err)
		case !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
			return err
		}
	}
}
