package bus

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// The decoders of replies return the error that the reply carries, as
// [DecodeError] does, and fail with [kv.ErrInternal] if it is no reply of this
// protocol.

// readReply reads the headers of a reply. The error is that of the reply.
func readReply(m *nats.Msg) (hs headers, err error) {
	if len(m.Header) > 0 {
		hs.read(m.Header)
		err = hs.failure()
	}
	return hs, err
}

// DecodeResult decodes the reply to a command. The result of a
// [kv.ErrConflict] has the current revision.
func DecodeResult(op Op, m *nats.Msg) (kv.Result, error) {
	var r kv.Result
	hs, failure := readReply(m)
	var err error
	if r.Revision, err = hs.decimal(idRevision); err == nil {
		r.ExpiresAt, err = hs.time(idExpiresAt)
	}
	switch {
	case failure != nil:
		return kv.Result{Revision: r.Revision}, failure
	case err != nil:
		return kv.Result{}, err
	}
	switch op {
	case OpSet:
		// The body says the revision to clients that read no headers.
		r.Applied = true
		if revision, err := parseRevision(string(m.Data)); err != nil || revision != r.Revision {
			return kv.Result{}, malformed("body %q of a set at revision %d", clip(string(m.Data)), r.Revision)
		}
	case OpIncrement, OpClear:
		r.Applied = true
		if r.Number, err = strconv.ParseInt(string(m.Data), 10, 64); err != nil {
			return kv.Result{}, malformed("body %q is no number", clip(string(m.Data)))
		}
		if op == OpClear {
			r.Applied = r.Number > 0
		}
	default:
		if r.Applied, err = parseBody(m.Data); err != nil {
			return kv.Result{}, err
		}
	}
	return r, nil
}

// DecodeValue decodes the reply to a get of key.
func DecodeValue(key string, m *nats.Msg) (kv.Entry, error) {
	hs, err := readReply(m)
	if err != nil {
		return kv.Entry{}, err
	}
	entry, err := hs.entry(key)
	if err != nil {
		return kv.Entry{}, err
	}
	entry.Value = string(m.Data)
	return entry, nil
}

// DecodeExists decodes the reply to an exists of key. The entry has no value;
// it is that of a live key, or the zero Entry.
func DecodeExists(key string, m *nats.Msg) (entry kv.Entry, live bool, err error) {
	hs, err := readReply(m)
	if err != nil {
		return kv.Entry{}, false, err
	}
	if live, err = parseBody(m.Data); err != nil || !live {
		return kv.Entry{}, false, err
	}
	if entry, err = hs.entry(key); err != nil {
		return kv.Entry{}, false, err
	}
	return entry, true, nil
}

// DecodeTTL decodes the reply to a ttl of key: the time left by the clock of
// the service, 0 for never, and the entry without its value.
func DecodeTTL(key string, m *nats.Msg) (left time.Duration, entry kv.Entry, err error) {
	hs, err := readReply(m)
	if err != nil {
		return 0, kv.Entry{}, err
	}
	if left, err = parseTTL(string(m.Data)); err != nil {
		return 0, kv.Entry{}, malformed("body %q is no time left", clip(string(m.Data)))
	}
	if entry, err = hs.entry(key); err != nil {
		return 0, kv.Entry{}, err
	}
	return left, entry, nil
}

// DecodeKeys decodes the reply to keys. The entries have keys only.
func DecodeKeys(m *nats.Msg) (kv.Page, error) {
	hs, err := readReply(m)
	if err != nil {
		return kv.Page{}, err
	}
	var page kv.Page
	if page.Revision, err = hs.decimal(idRevision); err != nil {
		return kv.Page{}, err
	}
	if page.Cursor, err = hs.cursor(); err != nil {
		return kv.Page{}, err
	}
	count, err := hs.decimal(idCount)
	if err != nil {
		return kv.Page{}, err
	}
	if len(m.Data) > 0 {
		for key := range strings.SplitSeq(string(m.Data), "\n") {
			page.Entries = append(page.Entries, kv.Entry{Key: key})
		}
	}
	if count != uint64(len(page.Entries)) {
		return kv.Page{}, malformed("%d keys, header %v says %d", len(page.Entries), idCount, count)
	}
	return page, nil
}

// AddToPage adds one reply to a scan to page, which is empty before the first, and
// reports whether it was the last one. It fails with [kv.ErrUnavailable] at the
// end of a stream of which messages were lost. After an error the stream is over,
// and page is as it was.
func AddToPage(page *kv.Page, m *nats.Msg) (done bool, err error) {
	hs, err := readReply(m)
	if err != nil {
		return false, err
	}
	if hs.isEnd() {
		revision, err := hs.decimal(idRevision)
		if err != nil {
			return false, err
		}
		cursor, err := hs.cursor()
		if err != nil {
			return false, err
		}
		if err := hs.complete(len(page.Entries)); err != nil {
			return false, err
		}
		page.Revision, page.Cursor = revision, cursor
		return true, nil
	}
	key, ok := hs.token(idKey)
	if !ok {
		return false, malformed("header %v is missing", idKey)
	}
	entry, err := hs.entry(key)
	if err != nil {
		return false, err
	}
	entry.Value = string(m.Data)
	page.Entries = append(page.Entries, entry)
	return false, nil
}

// AddToReplay adds one reply to a replay to replay, which is empty before the
// first, and reports whether it was the last one. It fails with
// [kv.ErrUnavailable] at the end of a stream of which messages were lost. After an
// error the stream is over, and replay is as it was.
func AddToReplay(replay *kv.Replay, m *nats.Msg) (done bool, err error) {
	hs, err := readReply(m)
	if err != nil {
		return false, err
	}
	if hs.isEnd() {
		revision, err := hs.decimal(idRevision)
		if err != nil {
			return false, err
		}
		if err := hs.complete(len(replay.Events)); err != nil {
			return false, err
		}
		replay.Revision, replay.More = revision, hs.present.has(idCursor)
		return true, nil
	}
	key, ok := hs.token(idKey)
	if !ok {
		return false, malformed("header %v is missing", idKey)
	}
	ev, err := hs.event(key, m.Data)
	if err != nil {
		return false, err
	}
	replay.Events = append(replay.Events, ev)
	return false, nil
}

// DecodeInfo decodes the reply to an info.
func DecodeInfo(m *nats.Msg) (Info, error) {
	if _, err := readReply(m); err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return Info{}, malformed("info: %v", err)
	}
	return info, nil
}

func (hs *headers) isEnd() bool {
	end, _ := hs.token(idEnd)
	return end == "true"
}

// complete checks what the end of a stream says against what came before it.
// Earlier services say nothing.
func (hs *headers) complete(came int) error {
	if !hs.present.has(idCount) {
		return nil
	}
	count, err := hs.decimal(idCount)
	if err != nil {
		return err
	}
	if count != uint64(came) {
		return fmt.Errorf("%w: %d of %d messages of the answer came", kv.ErrUnavailable, came, count)
	}
	return nil
}

// entry reads what every reply with a live entry has.
func (hs *headers) entry(key string) (entry kv.Entry, err error) {
	if !hs.present.has(idRevision) {
		return kv.Entry{}, malformed("header %v is missing", idRevision)
	}
	entry.Key = key
	if entry.Revision, err = hs.decimal(idRevision); err != nil {
		return kv.Entry{}, err
	}
	if entry.ExpiresAt, err = hs.time(idExpiresAt); err != nil {
		return kv.Entry{}, err
	}
	return entry, nil
}

// decimal reads a revision or a count; 0 for a header that is absent.
func (hs *headers) decimal(id headerID) (uint64, error) {
	s, ok := hs.token(id)
	if !ok {
		return 0, nil
	}
	n, err := parseRevision(s)
	if err != nil {
		return 0, malformed("header %v: %v", id, err)
	}
	return n, nil
}

// time reads a time; the zero time for a header that is absent.
func (hs *headers) time(id headerID) (time.Time, error) {
	s, ok := hs.token(id)
	if !ok {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, malformed("header %v: %q is no time of RFC 3339", id, clip(s))
	}
	return t.UTC(), nil
}

func (hs *headers) cursor() (string, error) {
	s, _ := hs.token(idCursor)
	cursor, err := parseCursor(s)
	if err != nil {
		return "", malformed("header %v: %v", idCursor, err)
	}
	return cursor, nil
}

func parseBody(body []byte) (bool, error) {
	switch string(body) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, malformed("body %q is neither true nor false", clip(string(body)))
	}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: malformed reply: %s", kv.ErrInternal, fmt.Sprintf(format, args...))
}
