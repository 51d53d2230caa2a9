package config_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"kvbus/config"
)

// wantFlags is what operators have in their scripts: a change here breaks them.
var wantFlags = map[string]string{
	"name":                      "name",
	"log.level":                 "log-level",
	"log.format":                "log-format",
	"nats.listen":               "listen",
	"nats.config":               "nats-config",
	"nats.url":                  "nats-url",
	"nats.context":              "nats-context",
	"nats.creds":                "creds",
	"nats.nkey":                 "nkey",
	"nats.user":                 "user",
	"nats.password":             "password",
	"nats.inbox_prefix":         "inbox-prefix",
	"nats.tls.ca":               "tls-ca",
	"nats.tls.cert":             "tls-cert",
	"nats.tls.key":              "tls-key",
	"bus.prefix":                "prefix",
	"store.data_dir":            "data-dir",
	"store.replicated":          "replicated",
	"store.replicas":            "replicas",
	"store.sync_always":         "sync-always",
	"store.consistency":         "consistency",
	"store.log_max_bytes":       "",
	"store.snapshot_bytes":      "",
	"store.snapshots_max_bytes": "",
	"store.snapshot_max_age":    "",
	"store.request_timeout":     "",
	"store.max_keys":            "max-keys",
	"store.max_value_size":      "max-value-size",
	"store.max_bytes":           "max-bytes",
	"store.replay.max_events":   "",
	"store.replay.max_bytes":    "",
	"store.request_ids.max":     "",
	"store.request_ids.max_age": "",
	"cluster.node_name":         "node-name",
	"cluster.name":              "cluster-name",
	"cluster.listen":            "cluster-listen",
	"cluster.advertise":         "cluster-advertise",
	"cluster.routes":            "cluster-routes",
	"cluster.user":              "",
	"cluster.password":          "",
	"cluster.tls.ca":            "",
	"cluster.tls.cert":          "",
	"cluster.tls.key":           "",
	"service.max_pending":       "max-pending",
	"service.max_pending_bytes": "max-pending-bytes",
	"service.drain_timeout":     "drain-timeout",
}

func TestSettingsAndFlags(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, s := range config.Settings() {
		got[s.Path] = s.Flag
	}
	if !maps.Equal(got, wantFlags) {
		t.Errorf("settings and flags:\n%v\nwant\n%v", got, wantFlags)
	}
}

func TestSettingsAreComplete(t *testing.T) {
	t.Parallel()
	settings := config.Settings()
	if leaves := countLeaves(reflect.TypeFor[config.Config]()); leaves != len(settings) {
		t.Errorf("%d settings for %d fields", len(settings), leaves)
	}
	envs := map[string]string{}
	for _, s := range settings {
		for what, text := range map[string]string{"path": s.Path, "usage": s.Usage, "arg": s.Arg, "group": s.Group} {
			if text == "" && (what != "arg" || s.Default != "false") {
				t.Errorf("setting %q has no %s", s.Path, what)
			}
		}
		if strings.ContainsAny(s.Usage, "`|\n") || strings.HasSuffix(s.Usage, ".") {
			t.Errorf("setting %s: usage %q is no plain phrase", s.Path, s.Usage)
		}
		if other, taken := envs[s.Env]; taken {
			t.Errorf("%s and %s share the variable %s", s.Path, other, s.Env)
		}
		envs[s.Env] = s.Path
		if s.Values != nil && !slices.Contains(s.Values, s.Default) {
			t.Errorf("setting %s: the default %q is none of %v", s.Path, s.Default, s.Values)
		}
	}
	for _, secret := range []string{"nats.password", "nats.url", "cluster.password", "cluster.routes"} {
		if !slices.ContainsFunc(settings, func(s config.Setting) bool { return s.Path == secret && s.Secret }) {
			t.Errorf("%s is no secret", secret)
		}
	}
	if _, found := envs["KVBUS_STORE__REPLAY__MAX_BYTES"]; !found {
		t.Errorf("no KVBUS_STORE__REPLAY__MAX_BYTES in %v", envs)
	}
}

func countLeaves(section reflect.Type) int {
	n := 0
	for field := range section.Fields() {
		if field.Type.Kind() == reflect.Struct {
			n += countLeaves(field.Type)
		} else {
			n++
		}
	}
	return n
}

func TestFlagsShowTheDefaults(t *testing.T) {
	t.Parallel()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.RegisterFlags(flags)
	help := flags.FlagUsages()
	for _, want := range []string{
		"(default info)", "(default auto)", "(default kv)",
		"(default 10000)", "(default 1MiB)", "(default 0B)", "(default 4096)", "(default 64MiB)", "(default 10s)",
		"largest value, up to " + config.MaxValueSizeLimit.String(),
	} {
		if !strings.Contains(help, want) {
			t.Errorf("no %q in\n%s", want, help)
		}
	}
}

func TestFlagsRefuseWhatIsNoValue(t *testing.T) {
	t.Parallel()
	for arg, rule := range map[string]string{
		"--drain-timeout=10":    "duration with a unit",
		"--drain-timeout=0":     "duration with a unit",
		"--max-keys=1.5":        "whole number",
		"--max-keys=many":       "whole number",
		"--max-value-size=1TiB": "whole number of bytes",
		"--replicated=yes":      "true or false",
		"--log-level=loud":      "one of debug, info, warn, error",
	} {
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		config.RegisterFlags(flags)
		if err := flags.Parse([]string{arg}); err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("%s: error %v; want one with %q", arg, err, rule)
		}
	}
}
