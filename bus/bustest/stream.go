package bustest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// streamNotMade is JetStream's error code where a server can't make the files of a
// stream.
const streamNotMade jetstream.ErrorCode = 10049

// MakeStream creates a stream, also where the server is still removing the files of one
// of that name.
func MakeStream(tb testing.TB, js jetstream.JetStream, config jetstream.StreamConfig) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	for {
		_, err := js.CreateStream(ctx, config)
		api, ok := errors.AsType[*jetstream.APIError](err)
		switch {
		case err == nil:
			return
		case !ok || api.ErrorCode != streamNotMade || ctx.Err() != nil:
			tb.Fatal(err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
