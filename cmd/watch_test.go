package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
)

func TestChangeLine(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 4, 10, 11, 12, 5, time.UTC)
	event := func(kind kv.EventKind, value string, deadline time.Time) bus.Change {
		return bus.Change{Kind: bus.ChangeEvent, Revision: 7, Event: kv.Event{
			Kind: kind, Key: "a.b", Value: value, Revision: 7, PreviousRevision: 3, Time: at, ExpiresAt: deadline,
		}}
	}
	const head, when = `"key":"a.b","revision":7,"previous_revision":3`, `"time":"2026-05-04T10:11:12.000000005Z"`
	for name, test := range map[string]struct {
		change bus.Change
		want   string
	}{
		"set":               {event(kv.EventSet, "<blue>\n", time.Time{}), `{"op":"SET",` + head + `,` + when + `,"value":"<blue>\n"}`},
		"the empty value":   {event(kv.EventSet, "", time.Time{}), `{"op":"SET",` + head + `,` + when + `,"value":""}`},
		"no UTF-8":          {event(kv.EventSet, "\xff\x00", time.Time{}), `{"op":"SET",` + head + `,` + when + `,"value_base64":"/wA="}`},
		"touch":             {event(kv.EventTouch, "", at.Add(time.Second)), `{"op":"TOUCH",` + head + `,` + when + `,"expires_at":"2026-05-04T10:11:13.000000005Z"}`},
		"expire":            {event(kv.EventExpire, "", time.Time{}), `{"op":"EXPIRE",` + head + `,` + when + `}`},
		"ready":             {bus.Change{Kind: bus.ChangeReady, Revision: 9}, `{"op":"READY","revision":9}`},
		"ready, of nothing": {bus.Change{Kind: bus.ChangeReady}, `{"op":"READY","revision":0}`},
		"state": {
			bus.Change{Kind: bus.ChangeState, Revision: 4, Entry: kv.Entry{Key: "é", Value: "1", Revision: 4, ExpiresAt: at}},
			`{"op":"STATE","key":"é","revision":4,"expires_at":"2026-05-04T10:11:12.000000005Z","value":"1"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := writeChange(&out, test.change); err != nil || out.String() != test.want+"\n" {
				t.Errorf("%v and\n%s\nwant\n%s", err, out.String(), test.want)
			}
		})
	}
}

// The reader of a pipe that has seen enough is no error.
func TestWatchEndsWithItsReader(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	reader.Close()
	if err := writeChange(writer, bus.Change{Kind: bus.ChangeReady}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the error is %v", err)
	}
}

// Who is told to stop while there is no server has nothing to complain about.
func TestWatchInterruptedWhileItWaits(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout bytes.Buffer
	var stderr lockedBuffer
	a := app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
	ended := make(chan int, 1)
	go func() { ended <- a.execute(ctx, []string{"watch", "--nats-url", "nats://127.0.0.1:1"}) }()
	waitFor(t, "the wait", func() bool { return strings.Contains(stderr.String(), "waiting for NATS") })
	cancel()
	if status := <-ended; status != 0 || stdout.Len() > 0 {
		t.Errorf("exit status %d, stdout %q, stderr %q", status, stdout.String(), stderr.String())
	}
}

// stuckReader is one that takes nothing.
type stuckReader struct{ waiting, released chan struct{} }

func (r stuckReader) Write([]byte) (int, error) {
	close(r.waiting)
	<-r.released
	return 0, syscall.EPIPE
}

// Who is told to stop stops, also where the reader of a pipe takes nothing.
func TestWatchInterruptedWhileItsReaderIsStuck(t *testing.T) {
	t.Parallel()
	url := bustest.StartServer(t, server.Options{}).ClientURL()
	w, _, _ := startWorker(t, url)
	if _, err := kv.Of(w.store).Set(t.Context(), "color", "blue"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader := stuckReader{make(chan struct{}), make(chan struct{})}
	defer close(reader.released)
	a := app{stdin: strings.NewReader(""), stdout: reader, stderr: new(lockedBuffer)}
	ended := make(chan int, 1)
	go func() { ended <- a.execute(ctx, []string{"watch", "--state", "--nats-url", url}) }()
	<-reader.waiting
	cancel()
	select {
	case status := <-ended:
		if status != 0 {
			t.Errorf("exit status %d", status)
		}
	case <-time.After(patience):
		t.Error("it goes on")
	}
}

// What keeps a connection from coming back is told with the silence that it brings.
func TestNoticeSaysWhatIsWrongWithTheConnection(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	logNotice(t.Context(), logger, bus.Notice{Kind: bus.NoticeStale, Err: kv.ErrUnavailable}, errors.New("expired"))
	if !strings.Contains(log.String(), "connection_error=expired") {
		t.Errorf("the log is %s", log.String())
	}
}

func TestErrorsAreExplained(t *testing.T) {
	t.Parallel()
	err := explain(fmt.Errorf("replay: %w", kv.ErrCompacted), 41)
	if !errors.Is(err, kv.ErrCompacted) || !strings.Contains(err.Error(), "after revision 41") || !strings.Contains(err.Error(), "--state") {
		t.Errorf("the error is %v", err)
	}
	if err := explain(fmt.Errorf("watch: %w", bus.ErrNoInbox), 41); !errors.Is(err, bus.ErrNoInbox) || !strings.Contains(err.Error(), "--inbox-prefix") {
		t.Errorf("without an inbox the error is %v", err)
	}
	if err := explain(kv.ErrClosed, 41); !errors.Is(err, kv.ErrClosed) || strings.Contains(err.Error(), "41") {
		t.Errorf("another error is %v", err)
	}
}
