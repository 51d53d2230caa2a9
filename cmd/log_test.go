package cmd

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"kvbus/config"
	"kvbus/kv"
)

func TestLogFormat(t *testing.T) {
	t.Parallel()
	for format, wantJSON := range map[string]bool{"auto": true, "json": true, "text": false} {
		var out bytes.Buffer
		newLogger(&out, config.Log{Level: "info", Format: format}, nil).Info("ready", "keys", 3)
		if isJSON := json.Valid(out.Bytes()); isJSON != wantJSON {
			t.Errorf("format %s where there is no terminal: JSON %v; want %v: %s", format, isJSON, wantJSON, out.String())
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Errorf("format %s has colour where there is no terminal: %q", format, out.String())
		}
	}
}

func TestLogLevel(t *testing.T) {
	t.Parallel()
	for level, want := range map[string]string{"debug": "DIWE", "info": "IWE", "warn": "WE", "error": "E"} {
		for _, format := range []string{"text", "json"} {
			var out bytes.Buffer
			logger := newLogger(&out, config.Log{Level: level, Format: format}, nil)
			logger.Debug("message D")
			logger.Info("message I")
			logger.Warn("message W")
			logger.Error("message E")
			var got strings.Builder
			for line := range strings.Lines(out.String()) {
				_, message, _ := strings.Cut(line, "message ")
				got.WriteString(message[:1])
			}
			if got.String() != want {
				t.Errorf("level %s as %s logs %q; want %q", level, format, got.String(), want)
			}
		}
	}
}

func TestDurationsHaveTheirUnit(t *testing.T) {
	t.Parallel()
	for format, want := range map[string][]string{
		"json": {`"retry_in":"2s"`, `"max_request_age":"2m0s"`},
		"text": {"retry_in=2s", "max_request_age=2m0s"},
	} {
		var out bytes.Buffer
		newLogger(&out, config.Log{Level: "info", Format: format}, nil).Info("waiting", "retry_in", 2*time.Second, "limits", kv.Limits{MaxRequestAge: 2 * time.Minute})
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("as %s there is no %s in %s", format, part, out.String())
			}
		}
	}
}

func TestColorIsTurnedOff(t *testing.T) {
	t.Parallel()
	for pair, want := range map[string]bool{
		"":                true,
		"NO_COLOR=":       true,
		"NO_COLOR=1":      false,
		"NO_COLOR=0":      false,
		"TERM=dumb":       false,
		"TERM=xterm":      true,
		"NO_COLOR_HERE=1": true,
	} {
		if got := wantsColor([]string{"HOME=/", pair}); got != want {
			t.Errorf("with %q colour is %v; want %v", pair, got, want)
		}
	}
}
