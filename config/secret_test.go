package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"kvbus/config"
)

func TestURLsMasked(t *testing.T) {
	t.Parallel()
	for urls, want := range map[config.URLs]string{
		"":                                 "",
		"nats://host:4222":                 "nats://host:4222",
		"nats://me:hunter2@host:4222":      "nats://me:***@host:4222",
		"nats://hunter2@host":              "nats://***@host",
		"me:hunter2@host":                  "me:***@host",
		"nats://a,tls://me:hunter2@b:1,c":  "nats://a,tls://me:***@b:1,c",
		"nats://a, tls://me:hunter2@b":     "nats://a, tls://me:***@b",
		"nats://a:1,me:hunter2@b":          "nats://a:***@b",
		"nats://a,me:hunter2@b":            "nats://***@b",
		"nats://me:hun,ter2@host":          "nats://me:***@host",
		"nats://me:42,ter2@host":           "nats://me:***@host",
		"nats://me:hun,nats://ter2@host":   "nats://me:***@host",
		"nats://me:hun,x://ter2@host":      "nats://me:***@host",
		"nats://hunter2@a,me:hunter2@b":    "nats://***@b",
		"nats://hunter2@a,nats://me:x@%zz": "nats://***@%zz",
		"nats://a,nats-route://hunter2@b":  "nats://a,nats-route://***@b",
		"nats://me:hunter2@hunter2@host":   "nats://me:***@host",
		"nats://me:hunter2://hunter2@host": "nats://me:***@host",
	} {
		if got := urls.String(); got != want {
			t.Errorf("%q is shown as %q; want %q", string(urls), got, want)
		}
	}
}

func TestSecretsAreMaskedWhereverConfigIsShown(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.NATS.URL = "nats://me:hunter2@host"
	cfg.NATS.User = "me"
	cfg.NATS.Password = "hunter2"

	var printed, logged bytes.Buffer
	if err := cfg.WriteYAML(&printed); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("starting", "config", cfg)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("starting", "config", cfg)
	marshalled, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for how, text := range map[string]string{
		"WriteYAML": printed.String(),
		"slog":      logged.String(),
		"JSON":      string(marshalled),
		"%v":        fmt.Sprintf("%v", cfg),
		"%+v":       fmt.Sprintf("%+v", cfg),
		"%#v":       fmt.Sprintf("%#v", cfg),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s shows the secret:\n%s", how, text)
		}
		if !strings.Contains(text, "***") {
			t.Errorf("%s does not show that there is a secret:\n%s", how, text)
		}
	}
	if string(cfg.NATS.Password) != "hunter2" {
		t.Errorf("the real password is %q", string(cfg.NATS.Password))
	}
}
