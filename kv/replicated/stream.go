package replicated

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
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
	if err := s.checkNeighbours(ctx); err != nil {
		return err
	}
	opts := &s.opts
	stream, err := openStream(ctx, s.js, opts.Logger, opts.NewReplicas, jetstream.StreamConfig{
		Name:        streamName(opts.Prefix),
		Description: "The log of kvbus at " + opts.Prefix,
		Subjects:    []string{logSubject(opts.Prefix), markSubject(opts.Prefix)},
		Replicas:    opts.Replicas,
		MaxBytes:    opts.MaxLogBytes,
		DenyDelete:  true,
		RePublish:   &jetstream.RePublish{Source: "$KVBUS." + opts.Prefix + ".*", Destination: liveSubject(opts.Prefix, "{{wildcard(1)}}")},
	})
	if err != nil {
		return explainBound(err, "the log", opts.MaxLogBytes, "store.log_max_bytes")
	}
	s.log = logName(stream)
	s.replicas.Store(int64(stream.CachedInfo().Config.Replicas))
	return nil
}

// JetStream's error codes where an account bounds each stream.
const (
	streamTooLarge = 10122
	boundRequired  = 10113
)

// explainBound adds to JetStream's refusal of the bound of a stream which setting that is.
func explainBound(err error, what string, bytes int64, setting string) error {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return err
	}
	takes := "may take any number of bytes"
	if bytes > 0 {
		takes = fmt.Sprintf("may take %d bytes", bytes)
	}
	switch api.ErrorCode {
	case storageExceeded:
		return fmt.Errorf("%w: %s %s (%s), and JetStream has less to give", err, what, takes, setting)
	case streamTooLarge, boundRequired:
		return fmt.Errorf("%w: %s %s (%s), and the account lets a stream have less", err, what, takes, setting)
	default:
		return err
	}
}

// openStream creates a stream that loses nothing if there is none of the name, with
// newReplicas where the number of replicas that is wanted is 0. In one that is there
// what can be changed safely is changed; it fails with [kv.ErrInvalidArgument] where
// that is not enough. 0 of replicas means those that it has, and of bytes no limit.
func openStream(ctx context.Context, js jetstream.JetStream, logger *slog.Logger, newReplicas int, want jetstream.StreamConfig) (jetstream.Stream, error) {
	want.MaxBytes = cmp.Or(want.MaxBytes, -1)
	want.Storage = jetstream.FileStorage
	want.Retention = jetstream.LimitsPolicy
	want.Discard = jetstream.DiscardNew
	want.AllowDirect = true
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		created := want
		created.Replicas = cmp.Or(want.Replicas, newReplicas)
		stream, err = js.CreateStream(ctx, created)
	}
	if err != nil {
		return nil, err
	}
	have := stream.CachedInfo().Config
	if err := suits(have, want); err != nil {
		return nil, err
	}
	changed := have
	changed.Replicas = cmp.Or(want.Replicas, have.Replicas)
	changed.MaxBytes = want.MaxBytes
	changed.AllowDirect = true
	changed.AllowRollup = have.AllowRollup || want.AllowRollup
	if want.RePublish != nil {
		changed.RePublish = want.RePublish
	}
	// An update that changes nothing may be refused all the same, where the server
	// has less room by now than it has promised.
	if reflect.DeepEqual(changed, have) {
		return stream, nil
	}
	if stream, err = js.UpdateStream(ctx, changed); err != nil {
		return nil, err
	}
	logger.Info("a stream was changed", "stream", have.Name,
		slog.Group("from", "replicas", have.Replicas, "max_bytes", have.MaxBytes),
		slog.Group("to", "replicas", changed.Replicas, "max_bytes", changed.MaxBytes))
	return stream, nil
}

// suits fails with [kv.ErrInvalidArgument] where a stream would lose messages, refuse
// them or acknowledge them before it has them, and nobody can tell what was lost
// already.
func suits(have, want jetstream.StreamConfig) error {
	for _, setting := range []struct {
		name       string
		have, want any
	}{
		{"subjects", fmt.Sprint(have.Subjects), fmt.Sprint(want.Subjects)},
		{"storage", have.Storage, want.Storage},
		{"retention", have.Retention, want.Retention},
		{"discard", have.Discard, want.Discard},
		{"max_msgs", limit(have.MaxMsgs), none},
		{"max_msgs_per_subject", limit(have.MaxMsgsPerSubject), none},
		{"max_age", limit(have.MaxAge), none},
		{"max_msg_size", limit(have.MaxMsgSize), none},
		{"no_ack", have.NoAck, false},
		{"sealed", have.Sealed, false},
		{"deny_purge", have.DenyPurge, false},
		{"allow_msg_counter", have.AllowMsgCounter, false},
		{"persist_mode", have.PersistMode, want.PersistMode},
		{"a mirror", have.Mirror != nil, false},
		{"sources", have.Sources != nil, false},
		{"a subject_transform", have.SubjectTransform != nil, false},
	} {
		if setting.have != setting.want {
			return fmt.Errorf("%w: the stream %s has %s: %v, and for kvbus it is %v: it is somebody else's, or was changed by hand",
				kv.ErrInvalidArgument, have.Name, setting.name, setting.have, setting.want)
		}
	}
	return nil
}

// none is how a limit that there is not is told.
const none = "none"

// limit returns a limit of a stream, of which there is none from 0 downwards.
func limit[T int32 | int64 | time.Duration](n T) any {
	if n <= 0 {
		return none
	}
	return n
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
	if errors.Is(err, jetstream.ErrStreamNotFound) {
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
