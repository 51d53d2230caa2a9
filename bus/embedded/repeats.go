package embedded

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// repeatPause is how long a failure that was logged is not logged again, of those
	// that come without an end: of TLS between servers, which try each other about once
	// a second, by several connections from both sides, for as long as a certificate is
	// wrong; and of a client that does what it may not. Who asks the worker for answers
	// where it may not publish makes it such a client.
	repeatPause = time.Minute
	// repeatKinds bounds how many failures are told apart.
	repeatKinds = 100
)

// repeats are failures that come again and again, by what they are.
type repeats struct {
	mu    sync.Mutex
	kinds map[string]*repeat
}

type repeat struct {
	logged  time.Time
	omitted int
}

// kindOf tells failures apart that come again and again; it is empty for all else.
func kindOf(message string) string {
	// The subject follows.
	if who, _, ok := strings.Cut(message, " Violation - "); ok {
		return who
	}
	_, failure, ok := strings.Cut(message, " - TLS route handshake error: ")
	if !ok {
		return ""
	}
	// Some have the time in them.
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return -1
		}
		return c
	}, failure)
}

// level returns at which level to log a line, whether to log it at all, and how many that
// are like it were not logged.
func (r *repeats) level(level slog.Level, message string, now time.Time) (as slog.Level, show bool, omitted int) {
	if strings.HasSuffix(message, " - Router connection closed: TLS Handshake Failure") {
		return slog.LevelDebug, true, 0 // follows the error
	}
	kind := kindOf(message)
	if kind == "" || level < slog.LevelWarn {
		return level, true, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.kinds[kind]
	if last == nil {
		if len(r.kinds) >= repeatKinds || r.kinds == nil {
			r.kinds = map[string]*repeat{}
		}
		last = &repeat{}
		r.kinds[kind] = last
	} else if now.Sub(last.logged) < repeatPause {
		last.omitted++
		return level, false, 0
	}
	omitted, last.logged, last.omitted = last.omitted, now, 0
	return level, true, omitted
}
