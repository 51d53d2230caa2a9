package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kvbus/config"
)

func TestDefaultIsValid(t *testing.T) {
	t.Parallel()
	if err := config.Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	external := func(c *config.Config) { c.NATS.URL = "nats://me:hunter2@host" }
	for name, test := range map[string]struct {
		change func(*config.Config)
		want   string // empty: valid
	}{
		"name with a space":     {func(c *config.Config) { c.Name = "my worker" }, `name (--name) is "my worker": must have no spaces`},
		"level":                 {func(c *config.Config) { c.Log.Level = "loud" }, `log.level (--log-level) is "loud": must be one of debug, info, warn, error`},
		"no level":              {func(c *config.Config) { c.Log.Level = "" }, `log.level (--log-level) is "": must be one of`},
		"format":                {func(c *config.Config) { c.Log.Format = "xml" }, `log.format (--log-format) is "xml": must be one of auto, text, json`},
		"listen on any port":    {func(c *config.Config) { c.NATS.Listen = "localhost:0" }, ""},
		"listen everywhere":     {func(c *config.Config) { c.NATS.Listen = ":4222" }, ""},
		"listen on IPv6":        {func(c *config.Config) { c.NATS.Listen = "[::1]:4222" }, ""},
		"listen without port":   {func(c *config.Config) { c.NATS.Listen = "localhost" }, `nats.listen (--listen) is "localhost": must be host:port`},
		"listen on no port":     {func(c *config.Config) { c.NATS.Listen = "localhost:65536" }, "must have a port from 0 to 65535"},
		"listen, host of space": {func(c *config.Config) { c.NATS.Listen = "a b:1" }, "must have no spaces in the host"},

		"servers":             {func(c *config.Config) { c.NATS.URL = "a, nats://b:1,tls://c,ws://d,wss://e" }, ""},
		"server, empty":       {func(c *config.Config) { c.NATS.URL = "a,,b" }, "must have a server between two commas"},
		"server, scheme":      {func(c *config.Config) { c.NATS.URL = "http://a" }, "must have nats, tls, ws or wss as scheme"},
		"server, no host":     {func(c *config.Config) { c.NATS.URL = "nats://:4222" }, "must be servers like nats://host:4222"},
		"server, cut, masked": {func(c *config.Config) { c.NATS.URL = "nats://u:hun,ter2@host" }, `nats.url (--nats-url) is "nats://u:***@host": must be servers`},
		"server, bad, masked": {func(c *config.Config) { c.NATS.URL = "nats://me:hunter2@%zz" }, `nats.url (--nats-url) is "nats://me:***@%zz": must be servers`},
		"server, comma in it": {func(c *config.Config) { c.NATS.URL = "nats://me:hunter2,hunter2@a" }, `is "nats://me:***@a": must be servers`},
		"server, port 0":      {func(c *config.Config) { c.NATS.URL = "a,nats://b:0" }, `nats.url (--nats-url) is "a,nats://b:0": must have ports from 1 to 65535`},
		"server, no port":     {func(c *config.Config) { c.NATS.URL = "tls://a:99999" }, "must have ports from 1 to 65535"},
		"server, last port":   {func(c *config.Config) { c.NATS.URL = "a:1,b:65535,[::1]:4222,c:" }, ""},
		"server, mask":        {func(c *config.Config) { c.NATS.URL = "nats://me:***@a" }, "has the mask"},

		"url and context":     {func(c *config.Config) { external(c); c.NATS.Context = "prod" }, `nats.context (--nats-context) is "prod": can't be used together with nats.url`},
		"url and listen":      {func(c *config.Config) { external(c); c.NATS.Listen = ":1" }, `nats.listen (--listen) is ":1": is for the embedded server`},
		"context and listen":  {func(c *config.Config) { c.NATS.Context = "a"; c.NATS.Listen = ":1" }, "is for the embedded server"},
		"context by its file": {func(c *config.Config) { c.NATS.Context = "/etc/nats/prod.json" }, ""},
		"context, relative":   {func(c *config.Config) { c.NATS.Context = "./prod.json" }, `nats.context (--nats-context) is "./prod.json": must be a name, or the absolute path`},
		"url and nats.config": {func(c *config.Config) { external(c); c.NATS.Config = "n.conf" }, `nats.config (--nats-config) is "n.conf": is for the embedded server`},
		"listen and config":   {func(c *config.Config) { c.NATS.Listen = ":1"; c.NATS.Config = "n.conf" }, ""},

		"creds and nkey":        {func(c *config.Config) { c.NATS.Creds, c.NATS.NKey = "a", "b" }, "nats.creds (--creds) is \"a\": can't be used together with nats.nkey"},
		"creds and user":        {func(c *config.Config) { c.NATS.Creds, c.NATS.User = "a", "b" }, "nats.creds (--creds) is \"a\": can't be used together with nats.user"},
		"nkey and user":         {func(c *config.Config) { c.NATS.NKey, c.NATS.User = "a", "b" }, "nats.nkey (--nkey) is \"a\": can't be used together with nats.user"},
		"user and one in URL":   {func(c *config.Config) { c.NATS.URL, c.NATS.User = "nats://me:secret@a", "b" }, "nats.user (--user) is \"b\": can't be used together with a user, or a token, in nats.url"},
		"creds and a token":     {func(c *config.Config) { c.NATS.URL, c.NATS.Creds = "a,nats://token@b", "c" }, "nats.creds (--creds) is \"c\": can't be used together with a user"},
		"nkey and user in URL":  {func(c *config.Config) { c.NATS.URL, c.NATS.NKey = "nats://me:secret@a", "c" }, "nats.nkey (--nkey) is \"c\": can't be used together with a user"},
		"user alone":            {func(c *config.Config) { c.NATS.User = "a" }, ""},
		"user and password":     {func(c *config.Config) { c.NATS.User, c.NATS.Password = "a", "b" }, ""},
		"password alone":        {func(c *config.Config) { c.NATS.Password = "hunter2" }, `nats.password (--password) is "***": needs nats.user`},
		"the mask for password": {func(c *config.Config) { c.NATS.User, c.NATS.Password = "a", "***" }, "is the mask"},

		"inbox prefix":                {func(c *config.Config) { c.NATS.InboxPrefix = "_INBOX.me" }, ""},
		"inbox prefix, wildcard":      {func(c *config.Config) { c.NATS.InboxPrefix = "_INBOX.>" }, `nats.inbox_prefix (--inbox-prefix) is "_INBOX.>": must have no wildcards`},
		"inbox prefix of the service": {func(c *config.Config) { c.NATS.InboxPrefix = "kv" }, `nats.inbox_prefix (--inbox-prefix) is "kv": must be neither bus.prefix nor below it`},
		"inbox prefix below it":       {func(c *config.Config) { c.Bus.Prefix, c.NATS.InboxPrefix = "app.kv", "app.kv.inbox" }, "must be neither bus.prefix nor below it"},
		"inbox prefix beside it":      {func(c *config.Config) { c.Bus.Prefix, c.NATS.InboxPrefix = "app.kv", "app.kvs" }, ""},
		"inbox prefix above it":       {func(c *config.Config) { c.Bus.Prefix, c.NATS.InboxPrefix = "app.kv", "app" }, ""},
		"inbox prefix, empty end":     {func(c *config.Config) { c.NATS.InboxPrefix = "_INBOX." }, "must have no empty token"},

		"TLS":                {func(c *config.Config) { external(c); c.NATS.TLS = config.TLS{CA: "a", Cert: "b", Key: "c"} }, ""},
		"TLS cert alone":     {func(c *config.Config) { external(c); c.NATS.TLS.Cert = "a" }, `nats.tls.cert (--tls-cert) is "a": needs nats.tls.key`},
		"TLS key alone":      {func(c *config.Config) { external(c); c.NATS.TLS.Key = "a" }, `nats.tls.key (--tls-key) is "a": needs nats.tls.cert`},
		"TLS to the process": {func(c *config.Config) { c.NATS.TLS.CA = "a" }, `nats.tls.ca (--tls-ca) is "a": is for an external server`},

		"prefix of tokens":     {func(c *config.Config) { c.Bus.Prefix = "team.kv$.größe" }, ""},
		"no prefix":            {func(c *config.Config) { c.Bus.Prefix = "" }, `bus.prefix (--prefix) is "": must have no empty token`},
		"prefix, empty token":  {func(c *config.Config) { c.Bus.Prefix = "a..b" }, "must have no empty token"},
		"prefix, trailing dot": {func(c *config.Config) { c.Bus.Prefix = "a." }, "must have no empty token"},
		"prefix, space":        {func(c *config.Config) { c.Bus.Prefix = "a b" }, "must have no spaces"},
		"prefix, *":            {func(c *config.Config) { c.Bus.Prefix = "a.*" }, "must have no wildcards"},
		"prefix, >":            {func(c *config.Config) { c.Bus.Prefix = "a.>" }, "must have no wildcards"},
		"prefix, $":            {func(c *config.Config) { c.Bus.Prefix = "$SYS.a" }, "must have no token that starts with $"},
		"prefix, later $":      {func(c *config.Config) { c.Bus.Prefix = "a.$b" }, "must have no token that starts with $"},
		"prefix, inbox":        {func(c *config.Config) { c.Bus.Prefix = "_INBOX.a" }, "must not begin with _INBOX"},
		"prefix, {{":           {func(c *config.Config) { c.Bus.Prefix = "a.{{b}}" }, "must have no {{"},
		"prefix, longest":      {func(c *config.Config) { c.Bus.Prefix = strings.Repeat("p", 256) }, ""},
		"prefix, too long":     {func(c *config.Config) { c.Bus.Prefix = strings.Repeat("p", 257) }, "must have at most 256 bytes"},
		"prefix, no UTF-8":     {func(c *config.Config) { c.Bus.Prefix = "a\xff" }, "must be UTF-8"},

		"least of everything": {func(c *config.Config) {
			c.Store.MaxValueSize, c.Store.MaxBytes, c.Store.Replay = 3, 3, config.Replay{MaxEvents: 1, MaxBytes: 3}
			c.Store.RequestIDs = config.RequestIDs{Max: 1, MaxAge: c.Store.RequestTimeout}
			c.Store.SnapshotBytes, c.Store.LogMaxBytes = 1, 12
			c.Service.MaxPending, c.Service.MaxPendingBytes = 1, 6
		}, ""},
		"log of four snapshots": {func(c *config.Config) { c.Store.LogMaxBytes = 4 * c.Store.SnapshotBytes }, ""},
		"keys, no limit":        {func(c *config.Config) { c.Store.MaxKeys = 0 }, ""},
		"keys, negative":        {func(c *config.Config) { c.Store.MaxKeys = -1 }, "store.max_keys (--max-keys) is -1: must be 0 (no limit) or more"},
		"value size, least":     {func(c *config.Config) { c.Store.MaxValueSize = 1 }, ""},
		"value size, most":      {func(c *config.Config) { c.Store.MaxValueSize = 8 * config.MiB }, ""},
		"value size, none":      {func(c *config.Config) { c.Store.MaxValueSize = 0 }, "store.max_value_size (--max-value-size) is 0B: must be 1B to 8MiB"},
		"value size, too much":  {func(c *config.Config) { c.Store.MaxValueSize = 8*config.MiB + 1 }, "is 8388609B: must be 1B to 8MiB"},
		"bytes below a value":   {func(c *config.Config) { c.Store.MaxBytes = config.MiB - 1 }, "store.max_bytes (--max-bytes) is 1048575B: must be 0 (no limit), or at least store.max_value_size (1MiB)"},
		"replay of nothing":     {func(c *config.Config) { c.Store.Replay.MaxEvents = 0 }, "store.replay.max_events is 0: must be 1 or more"},
		"replay below a value":  {func(c *config.Config) { c.Store.Replay.MaxBytes = 1 }, "store.replay.max_bytes is 1B: must be at least store.max_value_size (1MiB)"},
		"no request ids":        {func(c *config.Config) { c.Store.RequestIDs.Max = 0 }, "store.request_ids.max is 0: must be 1 or more"},
		"no time to repeat":     {func(c *config.Config) { c.Store.RequestIDs.MaxAge = 0 }, "store.request_ids.max_age is 0s: must be more than 0s"},
		"too early to repeat":   {func(c *config.Config) { c.Store.RequestIDs.MaxAge = 4 * time.Second }, "store.request_ids.max_age is 4s: must be more than 0s, and at least store.request_timeout (5s)"},

		"durable":                  {func(c *config.Config) { c.Store.DataDir, c.Store.SyncAlways, c.Store.Replicas = "d", true, 1 }, ""},
		"durable, external":        {func(c *config.Config) { external(c); c.Store.Replicated, c.Store.Replicas = true, 3 }, ""},
		"durable by a context":     {func(c *config.Config) { c.NATS.Context, c.Store.Replicated = "prod", true }, ""},
		"directory and external":   {func(c *config.Config) { external(c); c.Store.DataDir = "d" }, `store.data_dir (--data-dir) is "d": is for the embedded server`},
		"directory and replicated": {func(c *config.Config) { external(c); c.Store.Replicated, c.Store.DataDir = true, "d" }, "store.replicated (--replicated) is true: can't be used together with store.data_dir"},
		"replicated, not external": {func(c *config.Config) { c.Store.Replicated = true }, "store.replicated (--replicated) is true: needs nats.url or nats.context"},
		"sync in memory":           {func(c *config.Config) { c.Store.SyncAlways = true }, "store.sync_always (--sync-always) is true: needs store.data_dir"},
		"sync, external":           {func(c *config.Config) { external(c); c.Store.Replicated, c.Store.SyncAlways = true, true }, "store.sync_always (--sync-always) is true: needs store.data_dir"},
		"replicas in memory":       {func(c *config.Config) { c.Store.Replicas = 3 }, "store.replicas (--replicas) is 3: needs a durable store"},
		"replicas on one node":     {func(c *config.Config) { c.Store.DataDir, c.Store.Replicas = "d", 3 }, "store.replicas (--replicas) is 3: must not be more than the one node"},
		"replicas by the file":     {func(c *config.Config) { c.Store.DataDir, c.Store.Replicas, c.NATS.Config = "d", 3, "n.conf" }, ""},
		"replicas, even":           {func(c *config.Config) { external(c); c.Store.Replicated, c.Store.Replicas = true, 2 }, "store.replicas (--replicas) is 2: must be 1, 3 or 5"},
		"consistency":              {func(c *config.Config) { c.Store.Consistency = "strong" }, `store.consistency (--consistency) is "strong": must be one of linearizable, eventual`},
		"log, no limit":            {func(c *config.Config) { c.Store.LogMaxBytes = 0 }, ""},
		"log below snapshots":      {func(c *config.Config) { c.Store.LogMaxBytes = 256*config.MiB - 1 }, "store.log_max_bytes is 268435455B: must be 0 (no limit), or at least four times store.snapshot_bytes (64MiB)"},
		"log below a value":        {func(c *config.Config) { c.Store.LogMaxBytes, c.Store.SnapshotBytes = config.MiB, config.KiB }, "store.log_max_bytes is 1MiB: must be 0 (no limit), or at least four times store.max_value_size (1MiB)"},
		"snapshots of nothing":     {func(c *config.Config) { c.Store.SnapshotBytes = 0 }, "store.snapshot_bytes is 0B: must be 1B or more"},
		"snapshots all the time":   {func(c *config.Config) { c.Store.SnapshotMaxAge = 0 }, "store.snapshot_max_age is 0s: must be more than 0s"},
		"no time for a request":    {func(c *config.Config) { c.Store.RequestTimeout = 0 }, "store.request_timeout is 0s: must be more than 0s"},

		"nothing pending":     {func(c *config.Config) { c.Service.MaxPending = 0 }, "service.max_pending (--max-pending) is 0: must be 1 or more"},
		"pending below a cas": {func(c *config.Config) { c.Service.MaxPendingBytes = 2*config.MiB - 1 }, "service.max_pending_bytes (--max-pending-bytes) is 2097151B: must be at least twice store.max_value_size (1MiB)"},
		"drain, negative":     {func(c *config.Config) { c.Service.DrainTimeout = -1 }, "service.drain_timeout (--drain-timeout) is -1ns: must be 0s (don't wait) or more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config.Default()
			test.change(&cfg)
			err := cfg.Validate()
			switch {
			case test.want == "" && err != nil:
				t.Errorf("error %q; want none", err)
			case test.want != "" && err == nil:
				t.Errorf("no error; want %q", test.want)
			case test.want != "" && (len(config.Problems(err)) != 1 || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %q; want just %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q shows the secret", err)
			}
		})
	}
}

// The embedded server would leave the certificate of a client unread.
func TestValidateCertificateWithoutServer(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.NATS.TLS.Cert, cfg.NATS.TLS.Key = "a", "b"
	var got []string
	for _, p := range config.Problems(cfg.Validate()) {
		got = append(got, p.Path)
	}
	if want := []string{"nats.tls.cert", "nats.tls.key"}; !slices.Equal(got, want) {
		t.Errorf("problems with %q; want %q", got, want)
	}
}

func TestValidateReportsEveryProblem(t *testing.T) {
	t.Parallel()
	var got []string
	err := fmt.Errorf("wrapped: %w", config.Config{Name: " "}.Validate())
	for _, p := range config.Problems(err) {
		got = append(got, p.Path)
	}
	want := []string{
		"log.level", "log.format", "store.consistency", "name", "bus.prefix",
		"store.max_value_size", "store.replay.max_events", "store.request_ids.max", "store.request_ids.max_age",
		"store.snapshot_bytes", "store.snapshot_max_age", "store.request_timeout",
		"cluster.name", "service.max_pending",
	}
	if !slices.Equal(got, want) {
		t.Errorf("problems with %q; want %q", got, want)
	}
}

func TestLoadSaysWhereABadValueCameFrom(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		layers
		path        string
		source      string
		commandLine bool
	}{
		"file":        {layers{file: "store: {max_keys: -1}"}, "store.max_keys", "file ", false},
		"environment": {layers{file: "store: {max_keys: -2}", env: []string{"KVBUS_STORE__MAX_KEYS=-1"}}, "store.max_keys", "environment variable KVBUS_STORE__MAX_KEYS", false},
		"flag":        {layers{env: []string{"KVBUS_STORE__MAX_KEYS=-2"}, flags: []string{"--max-keys=-1"}}, "store.max_keys", "flag --max-keys", true},
		"conflict of a flag with the file": {
			layers{file: "nats: {context: prod}", flags: []string{"--nats-url=a"}}, "nats.context", "file ", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := test.load(t)
			problems := config.Problems(err)
			if len(problems) != 1 {
				t.Fatalf("problems %v; want one", problems)
			}
			p := problems[0]
			if p.Path != test.path || !strings.HasPrefix(p.Source, test.source) || p.CommandLine != test.commandLine {
				t.Errorf("problem %+v; want %s, set by %s, command line %v", p, test.path, test.source, test.commandLine)
			}
		})
	}
}
