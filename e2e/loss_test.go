package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A worker whose log was removed by hand, before it had all of it, ends and tells
// its supervisor: nothing that it could do anew brings the data back.
func TestLogIsRemoved(t *testing.T) {
	t.Parallel()
	for name, serves := range map[string]func(t *testing.T) *worker{
		"own server": func(t *testing.T) *worker { return serve(t, "--data-dir", t.TempDir()) },
		"external": func(t *testing.T) *worker {
			s := startServer(t, fmt.Sprintf("jetstream {store_dir: %q}", t.TempDir()))
			return serveOn(t, s.url, "--replicated")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serves(t)
			nc := connect(t, w.url)
			mustAsk(t, nc, "kv.set.color", "blue")
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := js.Stream(t.Context(), "KVBUS_kv")
			if err != nil {
				t.Fatal(err)
			}
			// The next record is the one at 1000, and what may have been before
			// is gone.
			if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(1000)); err != nil {
				t.Fatal(err)
			}
			_, _ = nc.Request("kv.set.color", []byte("green"), time.Second) // whatever it says
			w.expectExit(t, 1)
			expectParts(t, w.stderr.String(), "no snapshot leads there")
			if len(w.logged("starting anew")) > 0 {
				t.Error("it has started anew in between")
			}
		})
	}
}
