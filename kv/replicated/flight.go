package replicated

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// JetStream's error codes where a stream takes no message as it has reached its
// bound, or that of the account, or of the server.
const (
	storeFailed       = 10077
	accountExceeded   = 10002
	resourcesExceeded = 10023
	storageExceeded   = 10047
)

// ErrNotTaken: the log took no record, of a read neither, for as long as a request
// waits: JetStream said nothing, or refused. It comes with [kv.ErrUnavailable] or
// [kv.ErrTimeout].
var ErrNotTaken = errors.New("the log takes nothing")

// ErrLogFull says that the log has reached its own bound ([Options.MaxLogBytes]),
// for which snapshots make room.
var ErrLogFull = errors.New("the log has reached its bound")

// errFull says that there is no room for a record, for whatever reason.
var errFull = errors.New("the log is full")

// overBound is how JetStream describes a stream that has reached its bound.
const overBound = "maximum bytes exceeded"

// A flight is a batch under way.
type flight struct {
	number    uint64
	proposals []proposal
	readers   []reader
	given     int       // of the proposals, the first: they waited for too long
	sent      time.Time // when it was last appended
	due       time.Time // when it is to be appended again
	marked    bool      // it is appended as a mark
	full      bool      // more commands waited than it carries
	unsent    bool      // it is to be appended, once more or for the first time
	sends     int
	refusals  int // how many of the sends certainly did nothing
	reason    error
}

// members returns how many wait for the batch.
func (f *flight) members() int { return len(f.proposals) - f.given + len(f.readers) }

// send notes that the batch is appended. It counts before it is done: what happens
// then is not known until a refusal says so.
func (f *flight) send() {
	f.unsent = false
	f.sends++
	f.sent = time.Now()
	f.due = f.sent.Add(resendDelay)
}

// refused notes that a send did nothing.
func (f *flight) refused(reason error) {
	f.refusals++
	f.reason = reason
	f.due = f.sent.Add(resendRefused)
}

// undone reports whether all sends certainly did nothing.
func (f *flight) undone() bool { return f.sends == f.refusals }

// verdict is the error of those that are given up.
func (f *flight) verdict() error {
	if f.undone() {
		return fmt.Errorf("%w: %w: %w", kv.ErrUnavailable, ErrNotTaken, f.reason)
	}
	return fmt.Errorf("%w: %w: the batch was not seen in the log", kv.ErrTimeout, ErrNotTaken)
}

// acknowledgement returns the sequence under which JetStream stored a message,
// or why it did not.
func acknowledgement(m *nats.Msg) (uint64, error) {
	if m.Header.Get("Status") == "503" {
		return 0, nats.ErrNoResponders
	}
	var ack struct {
		Sequence uint64 `json:"seq"`
		Error    *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Error == nil {
		return ack.Sequence, nil
	}
	switch ack.Error.Code {
	case storeFailed:
		if strings.Contains(ack.Error.Description, overBound) {
			return 0, fmt.Errorf("%w: %w (%d)", errFull, ErrLogFull, ack.Error.Code)
		}
		fallthrough
	case accountExceeded, resourcesExceeded, storageExceeded:
		return 0, fmt.Errorf("%w: JetStream: %s (%d)", errFull, ack.Error.Description, ack.Error.Code)
	}
	return 0, fmt.Errorf("JetStream: %s (%d)", ack.Error.Description, ack.Error.Code)
}
