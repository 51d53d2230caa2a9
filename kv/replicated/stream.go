package replicated

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv"
)

// retryDelay is the pause between attempts to open the log.
const retryDelay = 250 * time.Millisecond

// streamName returns the name of the log's stream: a stream's name has no dots.
func streamName(prefix string) string {
	return "KVBUS_" + strings.ReplaceAll(prefix, ".", "_")
}

// logSubject returns the subject of the log's records.
func logSubject(prefix string) string { return "$KVBUS." + prefix + ".log" }

// patiently makes attempts until one does not fail for a reason that may pass
// by itself: JetStream may still need a quorum, or a leader. It fails when ctx
// ends.
func patiently(ctx context.Context, logger *slog.Logger, what string, attempt func() error) error {
	for said := false; ; {
		err := attempt()
		if err == nil {
			return nil
		}
		if !transient(err) || ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if !said {
			said = true
			logger.Info("waiting for JetStream", "to", what, "reason", err)
		}
		select {
		case <-time.After(retryDelay):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
	}
}

// openLog returns the log's stream, and creates it if there is none. It fails
// with [kv.ErrInvalidArgument] if a stream of that name is not such a log.
func openLog(ctx context.Context, js jetstream.JetStream, opts Options) (jetstream.Stream, error) {
	want := jetstream.StreamConfig{
		Name:        streamName(opts.Prefix),
		Description: "The log of kvbus at " + opts.Prefix,
		Subjects:    []string{logSubject(opts.Prefix)},
		Storage:     jetstream.FileStorage,
		Replicas:    opts.Replicas,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    opts.MaxLogBytes,
		DenyDelete:  true,
	}
	if want.MaxBytes == 0 {
		want.MaxBytes = -1
	}
	stream, err := js.CreateStream(ctx, want)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return existingLog(ctx, js, want)
	}
	return stream, err
}

// existingLog returns the stream that is there, after it was compared with what
// is wanted. What can be changed safely is changed.
func existingLog(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	have := stream.CachedInfo().Config
	foreign := func(what string, have, want any) error {
		return fmt.Errorf("%w: the stream %s has %s %v, a log of kvbus has %v: it is somebody else's, or was changed by hand",
			kv.ErrInvalidArgument, stream.CachedInfo().Config.Name, what, have, want)
	}
	switch {
	case len(have.Subjects) != 1 || have.Subjects[0] != want.Subjects[0]:
		return nil, foreign("the subjects", have.Subjects, want.Subjects)
	case have.Storage != want.Storage:
		return nil, foreign("the storage", have.Storage, want.Storage)
	case have.Retention != want.Retention:
		return nil, foreign("the retention", have.Retention, want.Retention)
	case have.Discard != want.Discard:
		return nil, foreign("the discard policy", have.Discard, want.Discard)
	case have.MaxMsgs > 0 || have.MaxAge > 0 || have.MaxMsgsPerSubject > 0:
		return nil, foreign("limits", "on messages or age", "none")
	}
	if have.Replicas == want.Replicas && have.MaxBytes == want.MaxBytes {
		return stream, nil
	}
	have.Replicas, have.MaxBytes = want.Replicas, want.MaxBytes
	return js.UpdateStream(ctx, have)
}

// transient reports whether an error of JetStream may pass by itself.
func transient(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code >= 500
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, nats.ErrReconnectBufExceeded)
}
