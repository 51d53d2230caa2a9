package embedded

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestOptionsOverFileOverDefaults(t *testing.T) {
	type want struct {
		host       string
		port       int
		maxPayload int32
		name       string
		storeDir   string
		jetStream  bool
		syncAlways bool
	}
	const mib = 1 << 20
	tests := map[string]struct {
		opts Options
		file string
		want want
	}{
		"nothing set":        {Options{}, "", want{host: "127.0.0.1", port: 4222, maxPayload: mib}},
		"empty file":         {Options{}, " ", want{host: "127.0.0.1", port: 4222, maxPayload: mib}},
		"listen":             {Options{Listen: "localhost:99"}, "", want{host: "localhost", port: 99, maxPayload: mib}},
		"listen everywhere":  {Options{Listen: ":99"}, "", want{host: "", port: 99, maxPayload: mib}},
		"listen on IPv6":     {Options{Listen: "[::1]:99"}, "", want{host: "::1", port: 99, maxPayload: mib}},
		"any port by 0":      {Options{Listen: "127.0.0.1:0"}, "", want{host: "127.0.0.1", port: server.RANDOM_PORT, maxPayload: mib}},
		"any port by -1":     {Options{Listen: "127.0.0.1:-1"}, "", want{host: "127.0.0.1", port: server.RANDOM_PORT, maxPayload: mib}},
		"listen in the file": {Options{}, "listen: 127.0.0.2:98", want{host: "127.0.0.2", port: 98, maxPayload: mib}},
		"port in the file":   {Options{}, "port: 98", want{host: "", port: 98, maxPayload: mib}},
		"host in the file":   {Options{}, "host: 127.0.0.2", want{host: "127.0.0.2", port: 4222, maxPayload: mib}},
		"any port, file":     {Options{}, "port: -1", want{host: "", port: server.RANDOM_PORT, maxPayload: mib}},
		"listen in both":     {Options{Listen: "127.0.0.1:99"}, "listen: 127.0.0.2:98", want{host: "127.0.0.1", port: 99, maxPayload: mib}},

		"payload raised":       {Options{MaxPayload: 2 * mib}, "", want{host: "127.0.0.1", port: 4222, maxPayload: 2 * mib}},
		"payload not lowered":  {Options{MaxPayload: 10}, "", want{host: "127.0.0.1", port: 4222, maxPayload: mib}},
		"payload, other file":  {Options{MaxPayload: 2 * mib}, "port: 98", want{port: 98, maxPayload: 2 * mib}},
		"lines of a file":      {Options{MaxControlLine: 1024, MaxPayload: mib}, "port: 98, max_control_line: 1024", want{port: 98, maxPayload: mib}},
		"payload, file holds":  {Options{MaxPayload: 2 * mib}, "port: 98, max_payload: 64KB", want{port: 98, maxPayload: 64 << 10}},
		"host name":            {Options{HostName: "h"}, "port: 98", want{port: 98, maxPayload: mib, name: "h"}},
		"host name, file":      {Options{HostName: "h"}, "port: 98, server_name: b", want{port: 98, maxPayload: mib, name: "b"}},
		"host name and name":   {Options{HostName: "h", ServerName: "a"}, "port: 98, server_name: b", want{port: 98, maxPayload: mib, name: "a"}},
		"name":                 {Options{ServerName: "a"}, "port: 98", want{port: 98, maxPayload: mib, name: "a"}},
		"name in the file":     {Options{}, "port: 98, server_name: b", want{port: 98, maxPayload: mib, name: "b"}},
		"name in both":         {Options{ServerName: "a"}, "port: 98, server_name: b", want{port: 98, maxPayload: mib, name: "a"}},
		"JetStream":            {Options{JetStream: true, StoreDir: "/a", SyncAlways: true}, "port: 98", want{port: 98, maxPayload: mib, storeDir: "/a", jetStream: true, syncAlways: true}},
		"JetStream by file":    {Options{}, "port: 98, jetstream {store_dir: /b, sync: always}", want{port: 98, maxPayload: mib, storeDir: "/b", jetStream: true, syncAlways: true}},
		"JetStream by both":    {Options{JetStream: true, StoreDir: "/a"}, "port: 98, jetstream {store_dir: /b}", want{port: 98, maxPayload: mib, storeDir: "/b", jetStream: true}},
		"JetStream, dir open":  {Options{JetStream: true, StoreDir: "/a"}, "port: 98, jetstream: enabled", want{port: 98, maxPayload: mib, storeDir: "/a", jetStream: true}},
		"sync, file holds":     {Options{JetStream: true, StoreDir: "/a", SyncAlways: true}, "port: 98, jetstream {sync: 10s}", want{port: 98, maxPayload: mib, storeDir: "/a", jetStream: true}},
		"sync, file open":      {Options{JetStream: true, StoreDir: "/a", SyncAlways: true}, "port: 98, jetstream {max_file: 1G}", want{port: 98, maxPayload: mib, storeDir: "/a", jetStream: true, syncAlways: true}},
		"JetStream, file's at": {Options{JetStream: true}, "port: 98, store_dir: /b", want{port: 98, maxPayload: mib, storeDir: "/b", jetStream: true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.file != "" {
				tt.opts.ConfigFile = writeFile(t, tt.file)
			}
			so, err := tt.opts.natsOptions(slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			got := want{so.Host, so.Port, so.MaxPayload, so.ServerName, so.StoreDir, so.JetStream, so.SyncAlways}
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if !so.NoSigs {
				t.Error("the server would take the process's signals")
			}
		})
	}
}

func TestSublistCache(t *testing.T) {
	for file, want := range map[string]bool{"": false, "port: 98": false, "disable_sublist_cache: true": false, "disable_sublist_cache: false": true} {
		var opts Options
		if file != "" {
			opts.ConfigFile = writeFile(t, file)
		}
		so, err := opts.natsOptions(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := !so.NoSublistCache; got != want {
			t.Errorf("with %q: a cache of subjects is %v, want %v", file, got, want)
		}
	}
}

func TestMaxPendingRisesWithMaxPayload(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct {
		maxPayload int
		file       string
		want       int64 // 0: nats-server's default
	}{
		"default":             {0, " ", 64 * mib},
		"half of the default": {32 * mib, " ", 64 * mib},
		"over half of it":     {33 * mib, " ", 66 * mib},
		"the most":            {math.MaxInt32, " ", 2 * math.MaxInt32},
		"pending in the file": {33 * mib, "max_pending: 40MB", 40 * mib},
		"payload in the file": {33 * mib, "max_payload: 2MB", 0},
		"both in the file":    {33 * mib, "max_payload: 2MB, max_pending: 3MB", 3 * mib},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			opts := Options{MaxPayload: tt.maxPayload, ConfigFile: writeFile(t, tt.file)}
			so, err := opts.natsOptions(slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if so.MaxPending != tt.want {
				t.Errorf("max pending is %d, want %d", so.MaxPending, tt.want)
			}
		})
	}
}

func TestOptionsRefused(t *testing.T) {
	tests := map[string]struct {
		opts Options
		want string
	}{
		"listen without port":    {Options{Listen: "localhost"}, `Listen is "localhost": must be host:port`},
		"listen on a name":       {Options{Listen: "localhost:nats"}, `port "nats" must be a number from 0 to 65535, or -1`},
		"listen on no port":      {Options{Listen: "localhost:65536"}, `port "65536" must be`},
		"payload below 0":        {Options{MaxPayload: -1}, "MaxPayload is -1 bytes: must be from 0"},
		"payload over the wire":  {Options{MaxPayload: math.MaxInt32 + 1}, "MaxPayload is 2147483648 bytes: must be"},
		"lines of a file":        {Options{MaxControlLine: 1025, ConfigFile: writeFile(t, "max_control_line: 1024")}, "max_control_line is 1024 bytes: must be at least 1025"},
		"lines of the default":   {Options{MaxControlLine: 4097}, "max_control_line is 4096 bytes: must be at least 4097"},
		"JetStream nowhere":      {Options{JetStream: true}, "without a StoreDir"},
		"store for nothing":      {Options{StoreDir: "/a"}, `StoreDir is "/a": has no use unless`},
		"SyncAlways for nothing": {Options{SyncAlways: true}, "SyncAlways is set: has no use unless"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tt.opts.natsOptions(slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestClusterOptions(t *testing.T) {
	opts := Options{ServerName: "a", JetStream: true, StoreDir: "/a", Cluster: Cluster{
		Name:      "c",
		Listen:    ":6222",
		Advertise: "a.example:6222",
		Routes:    []string{"nats://b:6222", " c:6222", "nats-route://b:6222", "nats://own:word@d:6222"},
		User:      "ada",
		Password:  "secret",
	}}
	opts.ConfigFile = writeFile(t, "cluster { compression: s2_fast }, reconnect_error_reports: 7")
	so, err := opts.natsOptions(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, route := range so.Routes {
		routes = append(routes, route.String())
	}
	if got, want := strings.Join(routes, " "), "nats://ada:secret@b:6222 nats://ada:secret@c:6222 nats://own:word@d:6222"; got != want {
		t.Errorf("routes are %s, want %s", got, want)
	}
	c := so.Cluster
	if c.Name != "c" || c.Host != "" || c.Port != 6222 || c.Advertise != "a.example:6222" || c.Username != "ada" || c.Password != "secret" {
		t.Errorf("cluster is %+v", c)
	}
	if c.Compression.Mode != server.CompressionS2Fast || so.ReconnectErrorReports != 7 {
		t.Errorf("the file's compression is %+v, its reports are %d", c.Compression, so.ReconnectErrorReports)
	}
	if c.PingInterval != routePing || c.MaxPingsOut != routePings {
		t.Errorf("pings every %v, %d unanswered", c.PingInterval, c.MaxPingsOut)
	}
}

func TestClusterRefused(t *testing.T) {
	tests := map[string]struct {
		change func(*Options)
		want   string
	}{
		"no name":            {func(o *Options) { o.Cluster.Name = "" }, `Cluster.Name is "": must be set`},
		"name with a space":  {func(o *Options) { o.Cluster.Name = "a b" }, `Cluster.Name is "a b": must be`},
		"no server name":     {func(o *Options) { o.ServerName = "" }, "ServerName is empty: must be set in a cluster"},
		"no address":         {func(o *Options) { o.Cluster.Listen = "" }, `Cluster.Listen is "": must be host:port`},
		"no port":            {func(o *Options) { o.Cluster.Listen = "a" }, `Cluster.Listen is "a": must be host:port`},
		"advertise any port": {func(o *Options) { o.Cluster.Advertise = "a:0" }, `Cluster.Advertise is "a:0": must be host:port`},
		"no routes":          {func(o *Options) { o.Cluster.Routes = nil }, "Cluster.Routes is empty: must have a URL with JetStream"},
		"route, no port":     {func(o *Options) { o.Cluster.Routes = []string{"nats://me:secret@a"} }, `Cluster.Routes is "nats://me:xxxxx@a": must be like`},
		"route, bad":         {func(o *Options) { o.Cluster.Routes = []string{"nats://me:secret@%zz"} }, "can't be parsed: must be like"},
		"user alone":         {func(o *Options) { o.Cluster.User = "a" }, "must be both or neither"},
		"password alone":     {func(o *Options) { o.Cluster.Password = "a" }, "must be both or neither"},
		"TLS in part":        {func(o *Options) { o.Cluster.TLS.CA = "ca.pem" }, "Cluster.TLS is {CA:ca.pem Cert: Key:}: must have all three"},
		"TLS of no files":    {func(o *Options) { o.Cluster.TLS = ClusterTLS{"/absent/ca", "/absent/cert", "/absent/key"} }, "/absent/cert"},
		"another in a file":  {func(o *Options) { o.ConfigFile = writeFile(t, "cluster { name: d }") }, "and the options each have a cluster: must be one of them"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			opts := Options{ServerName: "a", JetStream: true, StoreDir: "/a", Cluster: Cluster{Name: "c", Listen: ":6222", Routes: []string{"b:6222"}}}
			tt.change(&opts)
			_, err := opts.natsOptions(slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error is %v, want one with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q shows the secret", err)
			}
		})
	}
}

func TestJetStreamDisabledByTheFile(t *testing.T) {
	for _, text := range []string{"jetstream: false", "jetstream: disabled", "jetstream {enabled: false}"} {
		file := writeFile(t, text)
		opts := Options{ConfigFile: file, JetStream: true, StoreDir: "/a"}
		_, err := opts.natsOptions(slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "disables JetStream") {
			t.Errorf("%s: error is %v", text, err)
		}
	}
}

func writeFile(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "nats-server.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
