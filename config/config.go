// Package config holds the settings of kvbus: what they are, where they come
// from, and what they may be.
//
// # Layers
//
// [Load] puts four layers on each other, the later over the earlier:
//
//  1. the defaults, [Default];
//  2. a YAML file;
//  3. environment variables: KVBUS_ and the dotted path in upper case, with
//     two underscores between levels (store.max_keys is KVBUS_STORE__MAX_KEYS);
//  4. the command line flags that were set. A flag that was not set never
//     covers a lower layer with its default.
//
// # Strictness
//
// A setting that does not exist is an error, in the file and in the
// environment. A duration needs a unit, a bare number is refused. Text must be
// text: an unquoted number in the file is no password. A null in the file
// keeps the value of the layer below. Whatever is wrong is reported in one go,
// each as a [Problem] that names the setting, the value, the rule and the
// place it was set.
//
// # Secrets
//
// [Secret] and [URLs] show "***" for what must not be seen, wherever they are
// printed or logged; a conversion to string gives the real text.
//
// The package knows nothing of NATS and does no I/O but reading the one file.
package config

import "time"

// Config is every setting of a worker. The struct tags are the one place where
// a setting's path, flag and description are written: the flags, the
// reference and the comments of the printed configuration all come from them
// (see [Settings]). Pass it by value; it holds no references.
type Config struct {
	Name    string  `koanf:"name" flag:"name" arg:"name" usage:"name of this worker and of its embedded server (empty: the host name)"`
	Log     Log     `koanf:"log" group:"Log"`
	NATS    NATS    `koanf:"nats" group:"NATS"`
	Bus     Bus     `koanf:"bus" group:"Bus"`
	Store   Store   `koanf:"store" group:"Store"`
	Cluster Cluster `koanf:"cluster" group:"Cluster"`
	Service Service `koanf:"service" group:"Service"`
}

// Log says what is logged, and how.
type Log struct {
	Level  string `koanf:"level" flag:"log-level" arg:"level" values:"debug,info,warn,error" usage:"lowest level to log: debug, info, warn or error"`
	Format string `koanf:"format" flag:"log-format" arg:"format" values:"auto,text,json" usage:"text for people, json for machines; auto: text at a terminal"`
}

// NATS says which server the worker uses: its own, embedded one, or with
// [NATS.External] one that somebody else runs.
type NATS struct {
	// Listen has a host, which may be empty for all interfaces, and a port,
	// where 0 is any free one.
	Listen  string `koanf:"listen" flag:"listen" arg:"host:port" usage:"address of the embedded server (empty: that of nats.config, or 127.0.0.1:4222); port 0: any free one"`
	Config  string `koanf:"config" flag:"nats-config" arg:"file" usage:"nats-server.conf for the embedded server: accounts, TLS, clustering"`
	URL     URLs   `koanf:"url" flag:"nats-url" arg:"urls" usage:"external servers, comma separated; no server is embedded then"`
	Context string `koanf:"context" flag:"nats-context" arg:"context" usage:"external server by a context of the nats command: its name, or the absolute path of its file"`

	Creds    string `koanf:"creds" flag:"creds" arg:"file" usage:"credentials file to connect with"`
	NKey     string `koanf:"nkey" flag:"nkey" arg:"file" usage:"nkey seed file to connect with"`
	User     string `koanf:"user" flag:"user" arg:"user" usage:"user to connect as"`
	Password Secret `koanf:"password" flag:"password" arg:"password" usage:"the user's password; the environment hides it better than a flag"`

	InboxPrefix string `koanf:"inbox_prefix" flag:"inbox-prefix" arg:"subject" usage:"what the subjects begin with on which answers come (empty: _INBOX, or that of the context)"`

	TLS TLS `koanf:"tls"`
}

// External reports whether the worker connects to a server that it does not
// run itself.
func (n NATS) External() bool { return n.URL != "" || n.Context != "" }

// TLS is for the connection to an external server. The embedded server's own
// TLS is set in its nats-server.conf.
type TLS struct {
	CA   string `koanf:"ca" flag:"tls-ca" arg:"file" usage:"certificates (PEM) to trust the external server by"`
	Cert string `koanf:"cert" flag:"tls-cert" arg:"file" usage:"client certificate (PEM)"`
	Key  string `koanf:"key" flag:"tls-key" arg:"file" usage:"key (PEM) of the client certificate"`
}

// Bus says where on the bus the service is found.
type Bus struct {
	// Prefix is one or more subject tokens: the service answers on
	// Prefix + ".get.<key>" and so on.
	Prefix string `koanf:"prefix" flag:"prefix" arg:"subject" usage:"subject prefix of the service, one or more tokens"`
}

// Store says where entries are kept, how well, and how many.
type Store struct {
	DataDir     string `koanf:"data_dir" flag:"data-dir" arg:"dir" usage:"directory of the durable store (empty: in memory)"`
	Replicated  bool   `koanf:"replicated" flag:"replicated" usage:"keep the store in the JetStream of the external server; durable, shared by all workers"`
	Replicas    int    `koanf:"replicas" flag:"replicas" arg:"count" usage:"servers that hold the durable store: 1, 3 or 5; 0: those that it has; a new one as many as cluster.routes names nodes, at most 3, or else 1"`
	SyncAlways  bool   `koanf:"sync_always" flag:"sync-always" usage:"write to the disk (fsync) before each answer, and not every two minutes"`
	Consistency string `koanf:"consistency" flag:"consistency" arg:"level" values:"linearizable,eventual" usage:"reads that do not ask for one: linearizable sees every answered write, eventual does not wait"`

	// The durable store has a log and two snapshots on disk. A log that is
	// full refuses writes; that each snapshot makes room keeps it from that.
	LogMaxBytes       Size          `koanf:"log_max_bytes" arg:"size" usage:"most bytes of log on disk; 0: no limit"`
	SnapshotBytes     Size          `koanf:"snapshot_bytes" arg:"size" usage:"bytes of log that bring about a snapshot"`
	SnapshotsMaxBytes Size          `koanf:"snapshots_max_bytes" arg:"size" usage:"most bytes of (up to three) snapshots; 0: no limit"`
	SnapshotMaxAge    time.Duration `koanf:"snapshot_max_age" arg:"duration" usage:"age of log that brings about a snapshot"`
	RequestTimeout    time.Duration `koanf:"request_timeout" arg:"duration" usage:"how long a request waits for the log"`

	MaxKeys      int    `koanf:"max_keys" flag:"max-keys" arg:"count" usage:"most live keys; 0: no limit"`
	MaxValueSize Size   `koanf:"max_value_size" flag:"max-value-size" arg:"size" usage:"largest value, up to 8MiB"`
	MaxBytes     Size   `koanf:"max_bytes" flag:"max-bytes" arg:"size" usage:"most bytes of all keys and values together; 0: no limit"`
	Replay       Replay `koanf:"replay"`

	RequestIDs RequestIDs `koanf:"request_ids"`
}

// RequestIDs is the window in which a request with an id can be sent again.
type RequestIDs struct {
	Max    int           `koanf:"max" arg:"count" usage:"most requests with an id to remember, for repeats"`
	MaxAge time.Duration `koanf:"max_age" arg:"duration" usage:"how long to remember a request with an id"`
}

// Replay bounds the ring of recent events that watchers can go back to: an
// event is dropped when either limit is passed.
type Replay struct {
	MaxEvents int  `koanf:"max_events" arg:"count" usage:"recent events held for replay"`
	MaxBytes  Size `koanf:"max_bytes" arg:"size" usage:"bytes of recent events held for replay"`
}

// Cluster makes the embedded server one of several that hold the durable store
// together. An empty Listen is no cluster.
type Cluster struct {
	NodeName string `koanf:"node_name" flag:"node-name" arg:"name" usage:"name of this node, another one on each, and the same after a restart; in the place of a lost node the name of that one"`
	Name     string `koanf:"name" flag:"cluster-name" arg:"name" usage:"name of the cluster, the same on all nodes"`
	Listen   string `koanf:"listen" flag:"cluster-listen" arg:"host:port" usage:"address for the other nodes (empty: no cluster)"`

	// Advertise is for where Listen is not how others reach this node, as
	// behind a translated address.
	Advertise string `koanf:"advertise" flag:"cluster-advertise" arg:"host:port" usage:"address by which the other nodes reach this one, where that is not the one it listens on"`

	// Routes are best the same list on all nodes, with every node in it. The
	// embedded server knows itself among them.
	Routes   URLs   `koanf:"routes" flag:"cluster-routes" arg:"urls" usage:"nodes of the cluster, comma separated, with or without this one: nats://host:6222"`
	User     string `koanf:"user" arg:"user" usage:"user as which nodes connect to each other, the same on all"`
	Password Secret `koanf:"password" arg:"password" usage:"password with which nodes connect to each other"`

	TLS ClusterTLS `koanf:"tls"`
}

// Enabled reports whether there is a cluster.
func (c Cluster) Enabled() bool { return c.Listen != "" }

// ClusterTLS is for the connections between nodes, on which both sides show a
// certificate.
type ClusterTLS struct {
	CA   string `koanf:"ca" arg:"file" usage:"certificates (PEM) to trust other nodes by"`
	Cert string `koanf:"cert" arg:"file" usage:"certificate (PEM) of this node, as server and as client"`
	Key  string `koanf:"key" arg:"file" usage:"key (PEM) of this node's certificate"`
}

// Service bounds the requests that a worker has taken and not yet answered.
type Service struct {
	MaxPending      int           `koanf:"max_pending" flag:"max-pending" arg:"count" usage:"requests waiting per operation before the answer is overloaded; for the log of a durable store four times as many, over all operations"`
	MaxPendingBytes Size          `koanf:"max_pending_bytes" flag:"max-pending-bytes" arg:"size" usage:"bytes of requests waiting per operation before the answer is overloaded"`
	DrainTimeout    time.Duration `koanf:"drain_timeout" flag:"drain-timeout" arg:"duration" usage:"how long shutdown waits to answer what was taken"`
}

// Default returns the settings of a worker that was told nothing: an embedded
// server on the loopback interface and a store in memory.
func Default() Config {
	return Config{
		Log: Log{Level: "info", Format: "auto"},
		Bus: Bus{Prefix: "kv"},
		Store: Store{
			Consistency:    "linearizable",
			LogMaxBytes:    1 * GiB,
			SnapshotBytes:  64 * MiB,
			SnapshotMaxAge: time.Hour,
			RequestTimeout: 5 * time.Second,
			MaxKeys:        10_000,
			MaxValueSize:   1 * MiB,
			Replay:         Replay{MaxEvents: 65_536, MaxBytes: 64 * MiB},
			RequestIDs:     RequestIDs{Max: 65_536, MaxAge: 2 * time.Minute},
		},
		Cluster: Cluster{Name: "kvbus"},
		Service: Service{
			MaxPending:      4096,
			MaxPendingBytes: 64 * MiB,
			DrainTimeout:    10 * time.Second,
		},
	}
}
