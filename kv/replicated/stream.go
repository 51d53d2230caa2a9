package replicated

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

const (
	// retryDelay is the pause between attempts at what JetStream can't do yet.
	retryDelay = 250 * time.Millisecond
	// apiTimeout bounds a request to JetStream. In a cluster some get no answer,
	// such as those to a server that is gone and is not known to be.
	apiTimeout = 2 * time.Second
	// waitRepeat is how often the log says again for what it waits.
	waitRepeat = 15 * time.Second
)

// longestName is the length of the longest name of a stream that is all there. A
// longer one, for which file systems may have no room, ends with a hash.
const longestName = 128

// streamName returns the name of the log's stream, and of the object store of the
// snapshots. A stream's name has no dots, and that of an object store only letters,
// digits, dashes and underscores of ASCII.
func streamName(prefix string) string {
	name := []byte("KVBUS_")
	for _, r := range prefix {
		switch {
		case r == '.':
			name = append(name, '_')
		case r == '-' || r == '_' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z':
			name = append(name, byte(r))
		default:
			name = fmt.Appendf(name, "-u%X-", r)
		}
	}
	if len(name) > longestName {
		name = fmt.Appendf(name[:longestName/2], "-%x", sha256.Sum256([]byte(prefix)))
	}
	return string(name)
}

// snapshotsStream returns the name of the stream that the object store of the
// snapshots is in.
func snapshotsStream(prefix string) string { return "OBJ_" + streamName(prefix) }

// logSubject returns the subject to which records are appended, and markSubject
// the one for those that JetStream shows to the publisher of the events.
func logSubject(prefix string) string  { return "$KVBUS." + prefix + ".log" }
func markSubject(prefix string) string { return "$KVBUS." + prefix + ".mark" }

// liveSubject returns the subject to which JetStream sends each record when it
// is stored: that which it was appended to, whose last token kind is or stands for,
// and one more token. So it is in the log of no prefix.
func liveSubject(prefix, kind string) string { return "$KVBUS." + prefix + "." + kind + ".live" }

// directGetSubject returns the subject on which any server of the log answers with
// records of it.
func directGetSubject(prefix string) string { return "$JS.API.DIRECT.GET." + streamName(prefix) }

// patiently makes attempts until one does not fail for a reason that may pass
// by itself: JetStream may still need a quorum, or a leader. It fails when ctx
// ends. What lasts may need an operator after all, so it warns now and then.
func patiently(ctx context.Context, logger *slog.Logger, what string, attempt func() error) error {
	begun := time.Now()
	for said := (time.Time{}); ; {
		err := attempt()
		if err == nil {
			return nil
		}
		if !transient(err) || ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		switch {
		case said.IsZero():
			logger.Info("waiting for JetStream", "to", what, "reason", err)
			said = time.Now()
		case time.Since(said) >= waitRepeat:
			logger.Warn("still waiting for JetStream", "to", what, "reason", err, "since", time.Since(begun).Round(time.Second))
			said = time.Now()
		}
		select {
		case <-time.After(retryDelay):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
	}
}

// openLog creates the log's stream if there is none, and notes what it is. It fails
// with [kv.ErrInvalidArgument] if a stream of that name is not such a log, and with
// [errTwoLogs].
func (s *Store) openLog(ctx context.Context) error {
	js, opts := s.js, &s.opts
	want := jetstream.StreamConfig{
		Name:        streamName(opts.Prefix),
		Description: "The log of kvbus at " + opts.Prefix,
		Subjects:    []string{logSubject(opts.Prefix), markSubject(opts.Prefix)},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    opts.MaxLogBytes,
		DenyDelete:  true,
		AllowDirect: true,
		RePublish:   &jetstream.RePublish{Source: "$KVBUS." + opts.Prefix + ".*", Destination: liveSubject(opts.Prefix, "{{wildcard(1)}}")},
	}
	if want.MaxBytes == 0 {
		want.MaxBytes = -1
	}
	stream, err := js.Stream(ctx, want.Name)
	switch {
	case err == nil:
		err = s.checkNeighbours(ctx, logName(stream))
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if err = s.checkNeighbours(ctx, ""); err == nil {
			want.Replicas = cmp.Or(opts.Replicas, opts.NewReplicas)
			stream, err = js.CreateStream(ctx, want)
		}
	}
	if err == nil {
		s.log = logName(stream)
		want.Replicas = cmp.Or(opts.Replicas, stream.CachedInfo().Config.Replicas)
		err = adjust(ctx, js, stream, want, opts.Logger)
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == storageExceeded {
		err = fmt.Errorf("%w: the log may take %d bytes (store.log_max_bytes), and JetStream has less to give", err, want.MaxBytes)
	}
	s.replicas.Store(int64(want.Replicas))
	return err
}

// adjust compares the stream that is there with what is wanted. What can be
// changed safely is changed.
func adjust(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, want jetstream.StreamConfig, logger *slog.Logger) error {
	have := stream.CachedInfo().Config
	foreign := func(what string, have, want any) error {
		return fmt.Errorf("%w: the stream %s has %s %v, a log of kvbus has %v: it is somebody else's, or was changed by hand",
			kv.ErrInvalidArgument, stream.CachedInfo().Config.Name, what, have, want)
	}
	switch {
	case !slices.Equal(have.Subjects, want.Subjects):
		return foreign("the subjects", have.Subjects, want.Subjects)
	case have.Storage != want.Storage:
		return foreign("the storage", have.Storage, want.Storage)
	case have.Retention != want.Retention:
		return foreign("the retention", have.Retention, want.Retention)
	case have.Discard != want.Discard:
		return foreign("the discard policy", have.Discard, want.Discard)
	case have.MaxMsgs > 0 || have.MaxAge > 0 || have.MaxMsgsPerSubject > 0:
		return foreign("limits", "on messages or age", "none")
	}
	if have.Replicas == want.Replicas && have.MaxBytes == want.MaxBytes && have.AllowDirect &&
		have.RePublish != nil && *have.RePublish == *want.RePublish {
		return nil
	}
	from := slog.Group("from", "replicas", have.Replicas, "max_bytes", have.MaxBytes)
	have.Replicas, have.MaxBytes = want.Replicas, want.MaxBytes
	have.AllowDirect, have.RePublish = want.AllowDirect, want.RePublish
	if _, err := js.UpdateStream(ctx, have); err != nil {
		return err
	}
	logger.Info("the log was changed", "stream", have.Name, from, slog.Group("to", "replicas", have.Replicas, "max_bytes", have.MaxBytes))
	return nil
}

// logState returns what the log has.
func (s *Store) logState(ctx context.Context) (jetstream.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, streamName(s.opts.Prefix))
	if err != nil {
		return jetstream.StreamState{}, err
	}
	info := stream.CachedInfo()
	s.replicas.Store(int64(info.Config.Replicas)) // another worker may have changed them
	return info.State, nil
}

// JetStream's error codes that say by themselves, whatever the status is, whether
// to wait.
const (
	// noPeers: too few servers of a cluster are there.
	noPeers jetstream.ErrorCode = 10005
	// noCluster: more than one replica is asked of a server that stands alone. One
	// of a cluster takes no requests before it knows that it is.
	noCluster jetstream.ErrorCode = 10074
	// invalidConfig: a stream can't be like that.
	invalidConfig jetstream.ErrorCode = 10052
	// notMade: the server can't make or read the files of a stream.
	notMade jetstream.ErrorCode = 10049
)

// ErrNoStore says that the only server which there is can't make the files of the log,
// or of the snapshots, or can't read what is there.
var ErrNoStore = errors.New("the server has no place for the data")

// asked makes ErrNoStore of the error that a stream can't be stored where no other
// server could have it: each attempt costs what is there already.
func (s *Store) asked(err error) error {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && s.opts.Alone && api.ErrorCode == notMade {
		return fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	return err
}

// errNotYet says that something can't be done now.
var errNotYet = errors.New("not yet")

// unheardOf makes errNotYet of the error that there is no stream where it was there a
// moment ago: a server of a cluster, also the one that leads, may not have heard yet
// of what others have made.
func unheardOf(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrBucketNotFound) {
		return fmt.Errorf("%w: %w", errNotYet, err)
	}
	return err
}

// transient reports whether an error of JetStream may pass by itself.
func transient(err error) bool {
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return true // another worker was faster
	}
	if errors.Is(err, errNotYet) {
		return true
	}
	if errors.Is(err, ErrNoStore) {
		return false
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case noPeers:
			return true
		case noCluster, invalidConfig, storageExceeded:
			return false
		}
		return api.Code >= 500
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, errNoRecord)
}
