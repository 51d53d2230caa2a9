package cmd

import (
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"kvbus/config"
)

// newLogger returns the one logger of the process. With the format auto it
// writes text where w is a terminal and JSON elsewhere. Colour is for a
// terminal only, and not where NO_COLOR is set or the terminal is dumb.
func newLogger(w io.Writer, settings config.Log, environ []string) *slog.Logger {
	level := logLevel(settings.Level)
	terminal := isTerminal(w)
	if settings.Format == "json" || settings.Format == "auto" && !terminal {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: durationText}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level:      level,
		TimeFormat: time.DateTime + ".000",
		NoColor:    !terminal || !wantsColor(environ),
	}))
}

// durationText writes a duration with its unit in JSON too, where it would be a
// number of nanoseconds.
func durationText(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		attr.Value = slog.StringValue(attr.Value.Duration().String())
	}
	return attr
}

// logLevel takes what validation lets through.
func logLevel(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// wantsColor follows no-color.org: a NO_COLOR that is set to anything but
// nothing.
func wantsColor(environ []string) bool {
	return !slices.ContainsFunc(environ, func(pair string) bool {
		value, isNoColor := strings.CutPrefix(pair, "NO_COLOR=")
		return isNoColor && value != "" || pair == "TERM=dumb"
	})
}
