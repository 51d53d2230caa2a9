package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	srvlog "github.com/nats-io/nats-server/v2/logger"
	"github.com/nats-io/nats-server/v2/server"
)

// LevelTrace is the level of nats-server's trace lines: every protocol message
// of every client.
const LevelTrace = slog.LevelDebug - 4

// natsLog is where a server logs to: the process's log, or the file's own.
type natsLog struct {
	*fatalTrap
	debug, trace bool
	io.Closer

	// up is true from the end of Start to the beginning of Shutdown.
	up *atomic.Bool
}

func newNATSLog(so *server.Options, logger *slog.Logger) (*natsLog, error) {
	if so.Syslog || so.RemoteSyslog != "" {
		logger.Warn("syslog in the config file is not used; nats-server logs with the process", "file", so.ConfigFile)
	}
	if so.LogFile != "" {
		file, err := openLogFile(so)
		if err != nil {
			return nil, fmt.Errorf("embedded: log_file in config file %q: %w", so.ConfigFile, err)
		}
		return &natsLog{newFatalTrap(file), so.Debug, so.Trace, file, new(atomic.Bool)}, nil
	}
	ctx := context.Background()
	up := new(atomic.Bool)
	return &natsLog{
		newFatalTrap(slogAdapter{logger, up, new(repeats)}),
		logger.Enabled(ctx, slog.LevelDebug),
		logger.Enabled(ctx, LevelTrace),
		io.NopCloser(nil),
		up,
	}, nil
}

// openLogFile makes the logger that nats-server would make itself.
func openLogFile(so *server.Options) (*srvlog.Logger, error) {
	// NewFileLogger ends the process where it can't open the file.
	probe, err := os.OpenFile(so.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := probe.Close(); err != nil {
		return nil, err
	}
	const withPID = true
	file := srvlog.NewFileLogger(so.LogFile, so.Logtime, so.Debug, so.Trace, withPID, srvlog.LogUTC(so.LogtimeUTC))
	if so.LogSizeLimit > 0 {
		if err := file.SetSizeLimit(so.LogSizeLimit); err != nil {
			return nil, err
		}
	}
	if so.LogMaxFiles > 0 {
		if err := file.SetMaxNumFiles(int(so.LogMaxFiles)); err != nil {
			return nil, err
		}
	}
	return file, nil
}

// slogAdapter is a [server.Logger] on a slog one.
type slogAdapter struct {
	logger  *slog.Logger
	up      *atomic.Bool
	repeats *repeats
}

var _ server.Logger = slogAdapter{}

func (a slogAdapter) Warnf(format string, v ...any)  { a.log(slog.LevelWarn, format, v) }
func (a slogAdapter) Errorf(format string, v ...any) { a.log(slog.LevelError, format, v) }
func (a slogAdapter) Fatalf(format string, v ...any) { a.log(slog.LevelError, format, v) }
func (a slogAdapter) Debugf(format string, v ...any) { a.log(slog.LevelDebug, format, v) }
func (a slogAdapter) Tracef(format string, v ...any) { a.log(LevelTrace, format, v) }

// Noticef logs what an operator should see while the server runs. Its beginning
// and its end have a dozen notices each; the process has its own line for both.
func (a slogAdapter) Noticef(format string, v ...any) {
	level := slog.LevelDebug
	if a.up.Load() {
		level = slog.LevelInfo
	}
	a.log(level, format, v)
}

func (a slogAdapter) log(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if !a.logger.Enabled(ctx, level) {
		return
	}
	// It lays its lines out for a terminal, with indents and rulers.
	message := strings.TrimSpace(fmt.Sprintf(format, v...))
	if strings.Trim(message, "-") == "" {
		return
	}
	level, show, omitted := a.repeats.level(level, message, time.Now())
	if !show || !a.logger.Enabled(ctx, level) {
		return
	}
	if omitted > 0 {
		a.logger.Log(ctx, level, message, "like_it_not_logged", omitted)
		return
	}
	a.logger.Log(ctx, level, message)
}

// fatalTrap keeps nats-server from believing that a fatal error ends the
// process, as its own loggers see to, and hands the first one to [Start]. It knows
// which streams could not be read.
type fatalTrap struct {
	server.Logger
	first chan error

	mu      sync.Mutex
	streams map[string]error // by name
}

func newFatalTrap(logger server.Logger) *fatalTrap {
	return &fatalTrap{Logger: logger, first: make(chan error, 1), streams: map[string]error{}}
}

// notRead is the format of nats-server's warning about a stream that it can't read and
// has removed. Nothing else tells.
const notRead = "  Error recreating stream %q: %v"

// Warnf logs a warning.
func (t *fatalTrap) Warnf(format string, v ...any) {
	t.Logger.Warnf(format, v...)
	if format != notRead {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams[fmt.Sprint(v[0])] = fmt.Errorf("%v", v[1])
}

// unread returns why a stream could not be read; nil of one that was.
func (t *fatalTrap) unread(stream string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams[stream]
}

// Fatalf logs an error and returns.
func (t *fatalTrap) Fatalf(format string, v ...any) {
	t.Errorf(format, v...)
	select {
	case t.first <- newFatalError(format, v):
	default:
	}
}

// noJetStream is the format of nats-server's fatal error where JetStream does not
// start. Nothing else tells it from those about addresses and files.
const noJetStream = "Can't start JetStream: %v"

// fatalError has the text of nats-server, and the cause that is lost in it.
type fatalError struct {
	text  string
	cause error
}

func newFatalError(format string, v []any) *fatalError {
	e := &fatalError{text: fmt.Sprintf(format, v...)}
	for _, arg := range v {
		if cause, ok := arg.(error); ok {
			e.cause = cause
		}
	}
	if format == noJetStream {
		e.cause = errors.Join(ErrNoJetStream, e.cause)
	}
	return e
}

func (e *fatalError) Error() string { return e.text }
func (e *fatalError) Unwrap() error { return e.cause }
