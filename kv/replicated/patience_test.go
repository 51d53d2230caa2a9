package replicated

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What lasts is told again, with its reason.
func TestWaitIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
		defer cancel()
		err := patiently(ctx, slog.New(slog.NewTextHandler(&log, nil)), "test", func() error { return nats.ErrNoResponders })
		if err == nil {
			t.Error("it does not fail")
		}
		if first, again := strings.Count(log.String(), "level=INFO"), strings.Count(log.String(), "level=WARN"); first != 1 || again != 3 {
			t.Errorf("in 50 seconds it is told %d times, and again %d times: %s", first, again, log.String())
		}
	})
}

func TestTransient(t *testing.T) {
	api := func(code int, errorCode jetstream.ErrorCode) error {
		return fmt.Errorf("wrapped: %w", &jetstream.APIError{Code: code, ErrorCode: errorCode})
	}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"no leader":              {api(503, 10008), true},
		"no peers":               {api(400, 10005), true},
		"another was faster":     {api(400, 10058), true},
		"the same, by name":      {jetstream.ErrStreamNameAlreadyInUse, true},
		"no JetStream yet":       {jetstream.ErrJetStreamNotEnabled, true},
		"nobody answers":         {nats.ErrNoResponders, true},
		"replicas without peers": {api(500, 10074), false},
		"no room":                {api(500, 10047), false},
		"no such stream can be":  {api(500, 10052), false},
		"malformed":              {api(400, 10025), false},
		"no stream":              {api(404, 10059), false},
		"a stream that is new":   {unheardOf(api(404, 10059)), true},
		"a record elsewhere":     {fmt.Errorf("%w: %w", errNotYet, api(404, 10037)), true},
	} {
		if got := transient(test.err); got != test.want {
			t.Errorf("%s: it passes by itself: %v", name, got)
		}
	}
}
