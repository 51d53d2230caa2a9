package replicated

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// snapshotTimeout bounds the writing of one snapshot. Parts that are older, and
	// belong to nothing that is listed, are left over.
	snapshotTimeout = 5 * time.Minute
	// publishTimeout bounds the storing of one message of it, which is sent again each
	// time that there is no answer. It is far below the two minutes in which JetStream
	// knows a message again.
	publishTimeout = 5 * apiTimeout
	// snapshotPrefix is what their names begin with; the rest is the sequence.
	snapshotPrefix = "snapshot-"
)

// JetStream's error codes for a message that was sent before.
const (
	// inProcess: it is on its way to the other servers.
	inProcess jetstream.ErrorCode = 10158
	// wrongLast: the one before it on its subject is another than was expected.
	wrongLast jetstream.ErrorCode = 10071
)

// A snapshotStore has the snapshots of one log in a JetStream object store, where
// `nats object` shows them. An object is its parts, each a message on the subject of
// the object's id, and an entry on the subject of its name, which lists it.
//
// The entry is stored when all the parts are, for which nats.go would not wait.
type snapshotStore struct {
	js     jetstream.JetStream
	stream jetstream.Stream // that the objects are in
	bucket string
	logger *slog.Logger
}

// A storedSnapshot is one that is listed.
type storedSnapshot struct {
	name     string
	sequence uint64
	id       string
	parts    uint64 // that it should have
	found    uint64 // that it has
}

// whole reports whether the snapshot has all its parts. Only then it counts as one.
// One that is not was damaged, or stored by a worker that did not wait for its parts.
func (s storedSnapshot) whole() bool { return s.found == s.parts && s.parts > 0 }

// openSnapshots opens the store of the snapshots, on as many servers as the log, and
// creates it if there is none.
func (s *Store) openSnapshots(ctx context.Context) (*snapshotStore, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	opened := &snapshotStore{js: s.js, bucket: streamName(s.opts.Prefix), logger: s.logger}
	var err error
	opened.stream, err = openStream(ctx, s.js, s.logger, 0, jetstream.StreamConfig{
		Name:        snapshotsStream(s.opts.Prefix),
		Description: "The snapshots of kvbus at " + s.opts.Prefix,
		Subjects:    []string{opened.partsSubject(">"), opened.entries() + ">"},
		Replicas:    s.Replicas(),
		MaxBytes:    s.opts.MaxSnapshotsBytes,
		AllowRollup: true,
	})
	return opened, explainBound(err, "the snapshots", s.opts.MaxSnapshotsBytes, "store.snapshots_max_bytes")
}

// entries is what the subjects of entries begin with.
func (s *snapshotStore) entries() string { return "$O." + s.bucket + ".M." }

func (s *snapshotStore) entrySubject(name string) string {
	return s.entries() + base64.URLEncoding.EncodeToString([]byte(name))
}

func (s *snapshotStore) partsSubject(id string) string { return "$O." + s.bucket + ".C." + id }

// put stores what write writes as the snapshot at a sequence, and returns its size.
// Where it fails nothing is listed, or a snapshot that is whole.
func (s *snapshotStore) put(ctx context.Context, sequence uint64, write func(io.Writer) error) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	id := nuid.Next()
	size := max(1, min(partSize, s.js.Conn().MaxPayload()-partHeaders))
	parts := partWriter{ctx: ctx, store: s, subject: s.partsSubject(id), part: make([]byte, 0, size), digest: sha256.New()}
	err := write(&parts)
	if err == nil {
		err = parts.flush()
	}
	if err != nil {
		_ = s.purge(ctx, parts.subject) // what it leaves is removed when it is old
		return 0, err
	}
	return parts.size, s.enter(ctx, &jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{
			Name: fmt.Sprintf("%s%020d", snapshotPrefix, sequence),
			Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(size)},
		},
		Bucket: s.bucket,
		NUID:   id,
		Size:   parts.size,
		Chunks: parts.count,
		Digest: jetstream.GetObjectDigestValue(parts.digest),
	})
}

// enter lists an object. What comes late, as after a lost connection, must not take
// the place of what another worker has listed under the same name meanwhile.
func (s *snapshotStore) enter(ctx context.Context, info *jetstream.ObjectInfo) error {
	entry := nats.NewMsg(s.entrySubject(info.Name))
	entry.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	var replaced uint64
	last, err := s.last(ctx, entry.Subject)
	switch {
	case err == nil:
		replaced = last.Sequence
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return err
	}
	if entry.Data, err = json.Marshal(info); err != nil {
		return err
	}
	err = s.publish(ctx, entry, jetstream.WithExpectLastSequencePerSubject(replaced))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == wrongLast {
		// A single server looks at that before it knows the message again.
		if last, lastErr := s.last(ctx, entry.Subject); lastErr == nil && bytes.Equal(last.Data, entry.Data) {
			return nil
		}
	}
	return err
}

// publish returns when a message is stored. It sends it again where no answer comes, as
// from a leader of the stream that is gone, or is busy: JetStream stores it once.
func (s *snapshotStore) publish(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	opts = append(opts, jetstream.WithMsgID(nuid.Next()))
	for {
		asked, cancel := context.WithTimeout(ctx, apiTimeout)
		_, err := s.js.PublishMsg(asked, m, opts...)
		cancel()
		api, answered := errors.AsType[*jetstream.APIError](err)
		switch {
		case ctx.Err() != nil:
			return err
		case answered && api.ErrorCode == inProcess:
			select {
			case <-time.After(retryDelay):
			case <-ctx.Done():
				return err
			}
		case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, jetstream.ErrNoStreamResponse):
			return err
		}
	}
}

// list returns the snapshots that are listed, the newest first, also those that are
// not whole.
func (s *snapshotStore) list(ctx context.Context) ([]storedSnapshot, error) {
	has, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	var stored []storedSnapshot
	for _, object := range has.listed {
		digits, ours := strings.CutPrefix(object.Name, snapshotPrefix)
		sequence, err := strconv.ParseUint(digits, 10, 64)
		if ours && err == nil {
			stored = append(stored, storedSnapshot{
				name: object.Name, sequence: sequence, id: object.NUID,
				parts: uint64(object.Chunks), found: has.parts[s.partsSubject(object.NUID)],
			})
		}
	}
	slices.SortFunc(stored, func(a, b storedSnapshot) int { return cmp.Compare(b.sequence, a.sequence) })
	return stored, nil
}

// whole is list without those that are not whole.
func (s *snapshotStore) whole(ctx context.Context) ([]storedSnapshot, error) {
	stored, err := s.list(ctx)
	return slices.DeleteFunc(stored, func(snapshot storedSnapshot) bool { return !snapshot.whole() }), err
}

// A holding is all that is stored.
type holding struct {
	listed  []jetstream.ObjectInfo
	parts   map[string]uint64 // how many there are on each subject
	removed map[string]uint64 // sequences of entries that say that an object was removed
}

// look returns what the leader of the stream has.
func (s *snapshotStore) look(ctx context.Context) (holding, error) {
	has := holding{parts: map[string]uint64{}, removed: map[string]uint64{}}
	asked, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := s.stream.Info(asked, jetstream.WithSubjectFilter("$O."+s.bucket+".>"))
	if err != nil {
		return has, fmt.Errorf("list the snapshots: %w", err)
	}
	for subject, count := range stream.State.Subjects {
		if !strings.HasPrefix(subject, s.entries()) {
			has.parts[subject] = count
			continue
		}
		entry, err := s.last(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // it was removed since
		}
		if err != nil {
			return has, fmt.Errorf("list the snapshots: %w", err)
		}
		var object jetstream.ObjectInfo
		switch err := json.Unmarshal(entry.Data, &object); {
		case err != nil: // it lists nothing, for nats.go neither
		case object.Deleted:
			has.removed[subject] = entry.Sequence
		default:
			has.listed = append(has.listed, object)
		}
	}
	return has, nil
}

// open returns a reader of a snapshot, which ends with ctx. An error of it is
// transient if the snapshot may be read later.
func (s *snapshotStore) open(ctx context.Context, snapshot storedSnapshot) (io.Reader, error) {
	if !snapshot.whole() {
		return nil, damaged("it has %d of %d parts", snapshot.found, snapshot.parts)
	}
	return &partReader{ctx: ctx, store: s, snapshot: snapshot}, nil
}

// missing tells why a server did not have a part of a snapshot: without
// [errNotYet] where asking again would not help.
func (s *snapshotStore) missing(ctx context.Context, snapshot storedSnapshot, err error) error {
	stored, listErr := s.list(ctx)
	if listErr != nil {
		return listErr
	}
	there := slices.Contains(stored, snapshot)
	if there && s.stream.CachedInfo().Config.Replicas == 1 {
		return damaged("%w", err)
	}
	return fmt.Errorf("%w: %w", errNotYet, err) // it was removed, or another server has it
}

// remove removes a snapshot, which ends to be listed first.
func (s *snapshotStore) remove(ctx context.Context, snapshot storedSnapshot) error {
	for _, subject := range []string{s.entrySubject(snapshot.name), s.partsSubject(snapshot.id)} {
		if err := s.purge(ctx, subject); err != nil {
			return fmt.Errorf("remove the snapshot %s: %w", snapshot.name, err)
		}
	}
	return nil
}

// removeBefore removes the snapshots before a sequence, whole or not.
func (s *snapshotStore) removeBefore(ctx context.Context, sequence uint64) error {
	stored, err := s.list(ctx)
	if err != nil {
		return err
	}
	for _, snapshot := range stored {
		if snapshot.sequence >= sequence {
			continue
		}
		if err := s.remove(ctx, snapshot); err != nil {
			return err
		}
	}
	return nil
}

// purge removes what is on a subject: all, or what opts say.
func (s *snapshotStore) purge(ctx context.Context, subject string, opts ...jetstream.StreamPurgeOpt) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return s.stream.Purge(ctx, append(opts, jetstream.WithPurgeSubject(subject))...)
}

// removeRemains removes the parts of snapshots whose workers ended while they
// stored them: those that belong to nothing that is listed, and have an age that
// none has of one that is being stored. It also removes what nats.go leaves where it
// removes an object.
func (s *snapshotStore) removeRemains(ctx context.Context, age time.Duration) error {
	has, err := s.look(ctx)
	if err != nil {
		return err
	}
	for subject, sequence := range has.removed {
		// A snapshot may have been stored under that name meanwhile.
		if err := s.purge(ctx, subject, jetstream.WithPurgeSequence(sequence+1)); err != nil {
			return fmt.Errorf("remove remains of a snapshot: %w", err)
		}
	}
	for _, object := range has.listed {
		delete(has.parts, s.partsSubject(object.NUID))
	}
	for subject := range has.parts {
		last, err := s.last(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && time.Since(last.Time) < age {
			continue
		}
		if err == nil {
			err = s.purge(ctx, subject)
		}
		if err != nil {
			return fmt.Errorf("remove remains of a snapshot: %w", err)
		}
		s.logger.Info("remains of a snapshot removed", "subject", subject)
	}
	return nil
}

// A storedMessage is a message as the leader of a stream gives it.
type storedMessage struct {
	Sequence uint64    `json:"seq"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`
}

// last returns the last message on a subject. It asks the leader, as nats.go does not
// where other servers may answer, which can be behind. It fails with
// [jetstream.ErrMsgNotFound].
func (s *snapshotStore) last(ctx context.Context, subject string) (storedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	query, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return storedMessage{}, err
	}
	m, err := s.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+s.stream.CachedInfo().Config.Name, query)
	if err != nil {
		return storedMessage{}, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message storedMessage       `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return storedMessage{}, err
	}
	switch {
	case answer.Error == nil:
		return answer.Message, nil
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return storedMessage{}, jetstream.ErrMsgNotFound
	default:
		return storedMessage{}, answer.Error
	}
}
