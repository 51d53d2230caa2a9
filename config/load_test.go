package config_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"kvbus/config"
)

// layers is one configuration in its three layers over the defaults.
type layers struct {
	file  string // YAML; empty: no file
	env   []string
	flags []string
}

func (l layers) load(t *testing.T) (config.Config, error) {
	t.Helper()
	from := config.Sources{Environ: l.env, Flags: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	if l.file != "" {
		from.File = writeFile(t, l.file)
	}
	config.RegisterFlags(from.Flags)
	if err := from.Flags.Parse(l.flags); err != nil {
		t.Fatal(err)
	}
	return config.Load(from)
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kvbus.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	const file = "store:\n  max_keys: 2\n"
	env := []string{"KVBUS_STORE__MAX_KEYS=3"}
	flags := []string{"--max-keys=4"}
	for name, test := range map[string]struct {
		layers
		want int
	}{
		"nothing is given":              {layers{}, 10_000},
		"file over default":             {layers{file: file}, 2},
		"environment over default":      {layers{env: env}, 3},
		"flag over default":             {layers{flags: flags}, 4},
		"environment over file":         {layers{file: file, env: env}, 3},
		"flag over file":                {layers{file: file, flags: flags}, 4},
		"flag over environment":         {layers{env: env, flags: flags}, 4},
		"flag over all":                 {layers{file: file, env: env, flags: flags}, 4},
		"another flag leaves the file":  {layers{file: file, flags: []string{"--prefix=a"}}, 2},
		"a flag set to its default":     {layers{file: file, env: env, flags: []string{"--max-keys=10000"}}, 10_000},
		"null in the file":              {layers{file: "store:\n  max_keys: null\n"}, 10_000},
		"null in the file, environment": {layers{file: "store:\n  max_keys: ~\n", env: env}, 3},
		"null section":                  {layers{file: "store:\n"}, 10_000},
		"null section, environment":     {layers{file: "store:\n", env: env}, 3},
		"file with comments only":       {layers{file: "# nothing\n"}, 10_000},
		"other settings of the section": {layers{file: file, env: []string{"KVBUS_STORE__MAX_BYTES=1GiB"}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := test.load(t)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Store.MaxKeys != test.want {
				t.Errorf("store.max_keys is %d; want %d", cfg.Store.MaxKeys, test.want)
			}
		})
	}
}

func TestLoadOfNothingIsTheDefault(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if cfg != config.Default() {
		t.Errorf("Load = %+v; want %+v", cfg, config.Default())
	}
}

// Every setting has to arrive from every layer that it can come from.
func TestEverySettingFromEveryLayer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text map[string]string
		want config.Config
	}{
		"external": {customText, custom()},
		"cluster":  {clusterText, cluster()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := map[string]string{}
			for _, s := range config.Settings() {
				text[s.Path] = s.Default
			}
			maps.Copy(text, test.text)
			var env, flags, rest []string
			for _, s := range config.Settings() {
				env = append(env, s.Env+"="+text[s.Path])
				if s.Flag != "" {
					flags = append(flags, "--"+s.Flag+"="+text[s.Path])
				} else {
					rest = append(rest, s.Env+"="+text[s.Path])
				}
			}
			cfg, err := layers{env: env}.load(t)
			if err != nil || cfg != test.want {
				t.Errorf("from the environment: %+v, %v; want %+v", cfg, err, test.want)
			}
			cfg, err = layers{env: rest, flags: flags}.load(t)
			if err != nil || cfg != test.want {
				t.Errorf("from flags: %+v, %v; want %+v", cfg, err, test.want)
			}
		})
	}
}

// customText and custom are the same configuration, of a worker on an external
// server; each setting that can be set beside the others differs from its
// default.
var customText = map[string]string{
	"name":                      "worker-1",
	"log.level":                 "debug",
	"log.format":                "json",
	"nats.url":                  "nats://one:4222,tls://two",
	"nats.user":                 "true",
	"nats.tls.ca":               "ca.pem",
	"nats.tls.cert":             "cert.pem",
	"nats.tls.key":              "key: #1.pem",
	"bus.prefix":                "team.kv",
	"store.replicated":          "true",
	"store.replicas":            "5",
	"store.consistency":         "eventual",
	"store.log_max_bytes":       "2GB",
	"store.snapshot_bytes":      "10MB",
	"store.snapshots_max_bytes": "3GB",
	"store.snapshot_max_age":    "5m",
	"store.request_timeout":     "1500ms",
	"store.max_keys":            "7",
	"store.max_value_size":      "4KB",
	"store.max_bytes":           "2GiB",
	"store.replay.max_events":   "12",
	"store.replay.max_bytes":    "1MiB",
	"store.request_ids.max":     "9",
	"store.request_ids.max_age": "30s",
	"service.max_pending":       "8",
	"service.max_pending_bytes": "3MB",
	"service.drain_timeout":     "1m30s",
}

func custom() config.Config {
	return config.Config{
		Name: "worker-1",
		Log:  config.Log{Level: "debug", Format: "json"},
		NATS: config.NATS{
			URL:  "nats://one:4222,tls://two",
			User: "true",
			TLS:  config.TLS{CA: "ca.pem", Cert: "cert.pem", Key: "key: #1.pem"},
		},
		Bus: config.Bus{Prefix: "team.kv"},
		Store: config.Store{
			Replicated:        true,
			Replicas:          5,
			Consistency:       "eventual",
			LogMaxBytes:       2_000_000_000,
			SnapshotsMaxBytes: 3_000_000_000,
			SnapshotBytes:     10_000_000,
			SnapshotMaxAge:    5 * time.Minute,
			RequestTimeout:    1500 * time.Millisecond,
			MaxKeys:           7,
			MaxValueSize:      4000,
			MaxBytes:          2 * config.GiB,
			Replay:            config.Replay{MaxEvents: 12, MaxBytes: config.MiB},
			RequestIDs:        config.RequestIDs{Max: 9, MaxAge: 30 * time.Second},
		},
		Cluster: config.Cluster{Name: "kvbus"},
		Service: config.Service{MaxPending: 8, MaxPendingBytes: 3_000_000, DrainTimeout: 90 * time.Second},
	}
}

// clusterText and cluster are the same configuration, of a node in a cluster.
var clusterText = map[string]string{
	"store.data_dir":    "data",
	"store.replicas":    "1",
	"store.sync_always": "true",
	"cluster.node_name": "a",
	"cluster.name":      "team",
	"cluster.listen":    "0.0.0.0:6222",
	"cluster.advertise": "a.example:6222",
	"cluster.routes":    "nats://a.example:6222, b.example:6222",
	"cluster.user":      "node",
	"cluster.tls.ca":    "ca.pem",
	"cluster.tls.cert":  "cert.pem",
	"cluster.tls.key":   "key.pem",
	"cluster.password":  "secret",
}

func cluster() config.Config {
	cfg := config.Default()
	cfg.Store.DataDir, cfg.Store.Replicas, cfg.Store.SyncAlways = "data", 1, true
	cfg.Cluster = config.Cluster{
		NodeName:  "a",
		Name:      "team",
		Listen:    "0.0.0.0:6222",
		Advertise: "a.example:6222",
		Routes:    "nats://a.example:6222, b.example:6222",
		User:      "node",
		Password:  "secret",
		TLS:       config.ClusterTLS{CA: "ca.pem", Cert: "cert.pem", Key: "key.pem"},
	}
	return cfg
}

func TestValuesFromFile(t *testing.T) {
	t.Parallel()
	cfg, err := layers{file: `
store: {max_value_size: 2048, max_bytes: 1 GiB, log_max_bytes: 0, replay: {max_bytes: 1_000_000}}
service: {drain_timeout: 0s}
nats: {user: "1", password: "0123"}
`}.load(t)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Store.MaxValueSize != 2048 || cfg.Store.MaxBytes != config.GiB || cfg.Store.LogMaxBytes != 0 || cfg.Store.Replay.MaxBytes != 1_000_000 {
		t.Errorf("sizes are %+v", cfg.Store)
	}
	if cfg.Service.DrainTimeout != 0 {
		t.Errorf("service.drain_timeout is %v; want 0s", cfg.Service.DrainTimeout)
	}
	if cfg.NATS.Password != "0123" {
		t.Errorf("nats.password is %q", string(cfg.NATS.Password))
	}
}

func TestSwitchWithoutAValue(t *testing.T) {
	t.Parallel()
	cfg, err := layers{flags: []string{"--sync-always", "--data-dir", "data"}}.load(t)
	if err != nil || !cfg.Store.SyncAlways {
		t.Errorf("store.sync_always is %v, error %v", cfg.Store.SyncAlways, err)
	}
	cfg, err = layers{file: "store: {sync_always: true, data_dir: a}", flags: []string{"--sync-always=false"}}.load(t)
	if err != nil || cfg.Store.SyncAlways {
		t.Errorf("switched off by the flag, store.sync_always is %v, error %v", cfg.Store.SyncAlways, err)
	}
}

// Each error has to name the setting, the value, the rule and the place.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		layers
		want []string
	}{
		"unknown key in file":         {layers{file: "stroe: {max_keys: 1}"}, []string{"stroe", "no such setting", "kvbus.yaml"}},
		"unknown nested key in file":  {layers{file: "store: {replay: {size: 1}}"}, []string{"store.replay.size", "no such setting", "kvbus.yaml"}},
		"unknown key that is null":    {layers{file: "stroe:"}, []string{"stroe", "no such setting"}},
		"key of a similar name":       {layers{file: "store: {maxKeys: 1}"}, []string{"store.maxKeys", "did you mean store.max_keys?"}},
		"key in another case":         {layers{file: "Name: a"}, []string{"Name", "did you mean name?"}},
		"key with a dot":              {layers{file: "store.max_keys: 1"}, []string{"store.max_keys", "nested keys"}},
		"section that is a value":     {layers{file: "store: 1"}, []string{"store", "must be a section", "kvbus.yaml"}},
		"key that is a number":        {layers{file: "store: {1: 2}"}, []string{"store.1", "no such setting"}},
		"unknown variable":            {layers{env: []string{"KVBUS_COLOR=blue"}}, []string{"KVBUS_COLOR", "no such setting", "the environment"}},
		"variable with one _":         {layers{env: []string{"KVBUS_LOG_LEVEL=debug"}}, []string{"KVBUS_LOG_LEVEL", "did you mean KVBUS_LOG__LEVEL?"}},
		"variable of a section":       {layers{env: []string{"KVBUS_STORE=1"}}, []string{"KVBUS_STORE", "no such setting"}},
		"variable that is no link":    {layers{env: []string{"KVBUS_PORT=4222"}}, []string{"KVBUS_PORT", "no such setting"}},
		"bare number for a duration":  {layers{file: "service: {drain_timeout: 10}"}, []string{"service.drain_timeout (--drain-timeout) is 10", "with a unit", "kvbus.yaml"}},
		"bare 0 for a duration":       {layers{file: "service: {drain_timeout: 0}"}, []string{"service.drain_timeout", "with a unit"}},
		"bare text for a duration":    {layers{env: []string{"KVBUS_SERVICE__DRAIN_TIMEOUT=10"}}, []string{`service.drain_timeout (--drain-timeout) is "10"`, "with a unit", "KVBUS_SERVICE__DRAIN_TIMEOUT"}},
		"fraction for a number":       {layers{file: "store: {max_keys: 1.9}"}, []string{"store.max_keys (--max-keys) is 1.9", "whole number"}},
		"true for a number":           {layers{file: "store: {max_keys: true}"}, []string{"store.max_keys (--max-keys) is true", "whole number"}},
		"too large a number":          {layers{file: "store: {max_keys: 18446744073709551615}"}, []string{"store.max_keys", "outside the range"}},
		"too long a number":           {layers{env: []string{"KVBUS_STORE__MAX_KEYS=99999999999999999999"}}, []string{"store.max_keys", "outside the range"}},
		"empty variable for a number": {layers{env: []string{"KVBUS_STORE__MAX_KEYS="}}, []string{`store.max_keys (--max-keys) is ""`, "whole number"}},
		"word for a duration":         {layers{file: "service: {drain_timeout: soon}"}, []string{`service.drain_timeout (--drain-timeout) is "soon"`, "with a unit", "kvbus.yaml"}},
		"negative size":               {layers{file: "store: {max_bytes: -1}"}, []string{"store.max_bytes (--max-bytes) is -1", "whole number of bytes"}},
		"fractional size":             {layers{file: "store: {max_bytes: 1.5}"}, []string{"store.max_bytes (--max-bytes) is 1.5", "whole number of bytes"}},
		"size that is too large":      {layers{file: "store: {max_bytes: 18446744073709551615}"}, []string{"store.max_bytes", "at most"}},
		"number for a switch":         {layers{file: "store: {replicated: 1}"}, []string{"store.replicated (--replicated) is 1", "true or false"}},
		"text for a switch":           {layers{env: []string{"KVBUS_STORE__SYNC_ALWAYS=on"}}, []string{`store.sync_always (--sync-always) is "on"`, "true or false"}},
		"number for text":             {layers{file: "name: 7"}, []string{"name (--name) is 7", "quotes"}},
		"mapping for text":            {layers{file: "name: {a: b}"}, []string{"name (--name)", "must be text"}},
		"number for a secret":         {layers{file: "nats: {password: 313373133731337}"}, []string{"nats.password (--password) is ***", "quotes"}},
		"broken YAML":                 {layers{file: "store: [1"}, []string{"kvbus.yaml", "yaml"}},
		"key that comes twice":        {layers{file: "name: a\nname: b\n"}, []string{"kvbus.yaml", "already defined"}},
		"a second document":           {layers{file: "name: a\n---\nname: b\n"}, []string{"kvbus.yaml", "one YAML document"}},
		"null for a key":              {layers{file: "name: a\n~: 3\n"}, []string{"kvbus.yaml", "line 2: a key must be the name of a setting, not null"}},
		"null for a key, by its name": {layers{file: "null: x\n"}, []string{"kvbus.yaml", "line 1: a key"}},
		"null for a key of a section": {layers{file: "store:\n  max_keys: 1\n  ~: 3\n"}, []string{"kvbus.yaml", "line 3: a key"}},
		"empty key":                   {layers{file: "\"\": 3\n"}, []string{`"": no such setting`}},
		"empty key of a section":      {layers{file: "store: {\"\": 3}\n"}, []string{`store."": no such setting`}},
		"a list":                      {layers{file: "- a\n"}, []string{"kvbus.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := test.load(t)
			if err == nil {
				t.Fatalf("no error, but %+v", cfg)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q has no %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "313373133731337") {
				t.Errorf("error %q shows the secret", err)
			}
		})
	}
}

func TestLoadReportsAllLayersAtOnce(t *testing.T) {
	t.Parallel()
	_, err := layers{
		file: "stroe: 1\nstore: {max_key: 1, max_keys: a, max_bytes: b}\nservice: {drain_timeout: 3}\n",
		env:  []string{"KVBUS_COLOR=blue", "KVBUS_STORE__REPLAY__MAX_EVENTS=c"},
	}.load(t)
	var got []string
	for _, p := range config.Problems(err) {
		got = append(got, p.Path)
	}
	want := "store.max_key stroe KVBUS_COLOR service.drain_timeout store.max_bytes store.max_keys store.replay.max_events"
	if strings.Join(got, " ") != want {
		t.Errorf("problems with %q; want %q", got, want)
	}
}

// An error names no flag that its command does not have.
func TestProblemsWithoutFlags(t *testing.T) {
	t.Parallel()
	const environ, want = "KVBUS_STORE__MAX_KEYS=-1", "store.max_keys is -1"
	_, err := config.Load(config.Sources{Environ: []string{environ}, Flags: pflag.NewFlagSet("test", pflag.ContinueOnError)})
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v; want %q", err, want)
	}
}

func TestFileFromTheEnvironment(t *testing.T) {
	t.Parallel()
	environ := []string{"KVBUS_CONFIG=" + writeFile(t, "name: from-environment")}
	cfg, err := config.Load(config.Sources{Environ: environ})
	if err != nil || cfg.Name != "from-environment" {
		t.Errorf("name is %q, error %v", cfg.Name, err)
	}
	cfg, err = config.Load(config.Sources{Environ: environ, File: writeFile(t, "name: from-flag")})
	if err != nil || cfg.Name != "from-flag" {
		t.Errorf("name is %q, error %v", cfg.Name, err)
	}
}

func TestFileThatIsNotThere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing.yaml")
	_, err := config.Load(config.Sources{File: path})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v; want one that names %s", err, path)
	}
	if problems := config.Problems(err); problems != nil {
		t.Errorf("problems %v; want none", problems)
	}
}

func TestEnvironmentOfOthersIsPassedOver(t *testing.T) {
	t.Parallel()
	cfg, err := layers{env: []string{
		"PATH=/bin", "KVBUSES=3", "HOME",
		"KVBUS_SERVICE_HOST=10.0.0.1",
		"KVBUS_SERVICE_PORT=4222",
		"KVBUS_SERVICE_PORT_CLIENT=4222",
		"KVBUS_PORT=tcp://10.0.0.1:4222",
		"KVBUS_PORT_4222_TCP=tcp://10.0.0.1:4222",
		"KVBUS_PORT_4222_TCP_PROTO=tcp",
		"KVBUS_PORT_4222_TCP_PORT=4222",
		"KVBUS_PORT_4222_TCP_ADDR=10.0.0.1",
		"KVBUS_NATS_SERVICE_HOST=10.0.0.2",
	}}.load(t)
	if err != nil || cfg != config.Default() {
		t.Errorf("Load = %+v, %v; want the default", cfg, err)
	}
}
