package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxValueSizeLimit is the most that store.max_value_size may be. A
// compare-and-swap carries two values in one message; with 8 MiB each, three
// such messages with their headers fit in the 64 MiB that a NATS server buffers
// for a connection.
const MaxValueSizeLimit = 8 * MiB

// Validate reports everything that is wrong with c, as a joined error of
// [Problem] values. It looks at values alone: whether a file is there or a
// server answers is not its business.
func (c Config) Validate() error { return join(c.problems()) }

func (c Config) problems() []*Problem {
	settings := Settings()
	v := validator{config: c, settings: byPath(settings)}
	for _, s := range settings {
		if err := checkValues(s, valueText(s.value(c))); err != nil {
			v.require(false, s.Path, err.Error())
		}
	}
	v.require(!strings.ContainsFunc(c.Name, isSpaceOrControl), "name", "must have no spaces or control characters")
	v.checkNATS(c.NATS)
	if rule := cmp.Or(prefixRule(c.Bus.Prefix), inboxRule(c.Bus.Prefix)); rule != "" {
		v.require(false, "bus.prefix", rule)
	}
	v.require(c.Bus.Prefix == "" || !strings.HasPrefix(c.NATS.InboxPrefix+".", c.Bus.Prefix+"."), "nats.inbox_prefix",
		"must be neither bus.prefix nor below it: workers answer nobody there, each other neither", "bus.prefix")
	v.checkStore(c.Store)
	v.checkDurable(c.Store)
	v.checkCluster(c.Cluster)
	v.checkService(c.Service)
	return v.problems
}

// validator collects problems, and knows how to show the values they are about.
type validator struct {
	config   Config
	settings map[string]Setting
	problems []*Problem
}

// require reports the rule where it does not hold. The others are settings that
// it is about as well.
func (v *validator) require(holds bool, path, rule string, others ...string) {
	if holds {
		return
	}
	s, found := v.settings[path]
	if !found {
		panic("config: no setting " + path)
	}
	v.problems = append(v.problems, &Problem{
		Path:   path,
		Flag:   s.Flag,
		Value:  s.quoted(v.config),
		Rule:   rule,
		others: others,
	})
}

func (v *validator) checkNATS(n NATS) {
	if n.Listen != "" {
		if rule := listenRule(n.Listen); rule != "" {
			v.require(false, "nats.listen", rule)
		}
	}
	if rule := urlsRule(n.URL); rule != "" {
		v.require(false, "nats.url", rule)
	}
	v.require(!strings.Contains(string(n.Password), mask), "nats.password", "is the mask of a printed configuration, not a password")
	v.require(!strings.Contains(string(n.URL), mask), "nats.url", "has the mask of a printed configuration in place of a secret")

	v.require(n.URL == "" || n.Context == "", "nats.context", "can't be used together with nats.url: they are two ways to name a server", "nats.url")
	v.require(!strings.ContainsRune(n.Context, filepath.Separator) || filepath.IsAbs(n.Context), "nats.context", "must be a name, or the absolute path of a file")
	v.require(!n.External() || n.Listen == "", "nats.listen", "is for the embedded server, and nats.url or nats.context names an external one", "nats.url", "nats.context")
	v.require(!n.External() || n.Config == "", "nats.config", "is for the embedded server, and nats.url or nats.context names an external one", "nats.url", "nats.context")

	v.require(n.Creds == "" || n.NKey == "", "nats.creds", "can't be used together with nats.nkey", "nats.nkey")
	v.require(n.Creds == "" || n.User == "", "nats.creds", "can't be used together with nats.user", "nats.user")
	v.require(n.NKey == "" || n.User == "", "nats.nkey", "can't be used together with nats.user", "nats.user")
	v.require(n.Password == "" || n.User != "", "nats.password", "needs nats.user", "nats.user")
	if n.URL.hasUser() { // who would go before the others
		const rule = "can't be used together with a user, or a token, in nats.url"
		v.require(n.Creds == "", "nats.creds", rule, "nats.url")
		v.require(n.NKey == "", "nats.nkey", rule, "nats.url")
		v.require(n.User == "", "nats.user", rule, "nats.url")
	}

	if rule := prefixRule(n.InboxPrefix); n.InboxPrefix != "" && rule != "" {
		v.require(false, "nats.inbox_prefix", rule)
	}
	v.require(n.TLS.Cert == "" || n.TLS.Key != "", "nats.tls.cert", "needs nats.tls.key", "nats.tls.key")
	v.require(n.TLS.Key == "" || n.TLS.Cert != "", "nats.tls.key", "needs nats.tls.cert", "nats.tls.cert")
	if !n.External() {
		const rule = "is for an external server (nats.url, nats.context); the embedded one has its TLS in nats.config"
		v.require(n.TLS.CA == "", "nats.tls.ca", rule)
		v.require(n.TLS.Cert == "", "nats.tls.cert", rule)
		v.require(n.TLS.Key == "", "nats.tls.key", rule)
	}
}

func (v *validator) checkStore(s Store) {
	v.require(s.MaxKeys >= 0, "store.max_keys", "must be 0 (no limit) or more")
	v.require(s.MaxValueSize >= 1 && s.MaxValueSize <= MaxValueSizeLimit, "store.max_value_size",
		fmt.Sprintf("must be 1B to %v: a compare-and-swap carries two values, and NATS has room for 64MiB", MaxValueSizeLimit))
	v.require(s.MaxBytes == 0 || s.MaxBytes >= s.MaxValueSize, "store.max_bytes",
		fmt.Sprintf("must be 0 (no limit), or at least store.max_value_size (%v)", s.MaxValueSize), "store.max_value_size")
	v.require(s.Replay.MaxEvents >= 1, "store.replay.max_events", "must be 1 or more")
	v.require(s.Replay.MaxBytes >= s.MaxValueSize, "store.replay.max_bytes",
		fmt.Sprintf("must be at least store.max_value_size (%v), so that an event fits", s.MaxValueSize), "store.max_value_size")
	v.require(s.RequestIDs.Max >= 1, "store.request_ids.max", "must be 1 or more")
	v.require(s.RequestIDs.MaxAge > 0 && s.RequestIDs.MaxAge >= s.RequestTimeout, "store.request_ids.max_age",
		fmt.Sprintf("must be more than 0s, and at least store.request_timeout (%v), after which requests are sent again", s.RequestTimeout), "store.request_timeout")
}

// checkDurable is about what holds entries beyond the life of the process.
func (v *validator) checkDurable(s Store) {
	external := v.config.NATS.External()
	switch {
	case s.Replicated && s.DataDir != "":
		v.require(false, "store.replicated", "can't be used together with store.data_dir: the data is where the external server keeps it", "store.data_dir")
	case s.Replicated:
		v.require(external, "store.replicated", "needs nats.url or nats.context: with an embedded server it is store.data_dir that makes the store durable", "nats.url", "nats.context")
	case s.DataDir != "":
		v.require(!external, "store.data_dir", "is for the embedded server, and nats.url or nats.context names an external one: store.replicated keeps the store there", "nats.url", "nats.context")
	}
	// Only the server that writes can be told how.
	v.require(!s.SyncAlways || s.DataDir != "", "store.sync_always", "needs store.data_dir: it is for the embedded server's disk", "store.data_dir")
	v.checkReplicas(s)

	v.require(s.SnapshotBytes >= 1, "store.snapshot_bytes", "must be 1B or more")
	// While a snapshot is written the log goes on, and the one before it is kept.
	v.require(s.LogMaxBytes == 0 || s.LogMaxBytes/4 >= s.SnapshotBytes, "store.log_max_bytes",
		fmt.Sprintf("must be 0 (no limit), or at least four times store.snapshot_bytes (%v), so that a snapshot comes in time", s.SnapshotBytes), "store.snapshot_bytes")
	v.require(s.LogMaxBytes == 0 || s.LogMaxBytes/4 >= s.MaxValueSize, "store.log_max_bytes",
		fmt.Sprintf("must be 0 (no limit), or at least four times store.max_value_size (%v)", s.MaxValueSize), "store.max_value_size")
	v.require(s.SnapshotMaxAge > 0, "store.snapshot_max_age", "must be more than 0s")
	v.require(s.RequestTimeout > 0, "store.request_timeout", "must be more than 0s")
}

func (v *validator) checkService(s Service) {
	v.require(s.MaxPending >= 1, "service.max_pending", "must be 1 or more")
	v.require(s.MaxPendingBytes >= 2*v.config.Store.MaxValueSize, "service.max_pending_bytes",
		fmt.Sprintf("must be at least twice store.max_value_size (%v), so that a compare-and-swap fits", v.config.Store.MaxValueSize), "store.max_value_size")
	v.require(s.DrainTimeout >= 0, "service.drain_timeout", "must be 0s (don't wait) or more")
}

// checkValues holds a value against the list of those allowed, if there is one.
func checkValues(s Setting, text string) error {
	if s.Values == nil || slices.Contains(s.Values, text) {
		return nil
	}
	return fmt.Errorf("must be one of %s", strings.Join(s.Values, ", "))
}

// The functions below return the rule that a value breaks, or nothing.

func listenRule(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "must be host:port"
	}
	if strings.ContainsFunc(host, isSpaceOrControl) {
		return "must have no spaces in the host"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "must have a port from 0 to 65535"
	}
	return ""
}

func urlsRule(urls URLs) string {
	for _, server := range urls.List() {
		if server == "" {
			return "must have a server between two commas"
		}
		parsed, err := url.Parse(server)
		if err != nil || parsed.Hostname() == "" {
			return "must be servers like nats://host:4222, comma separated"
		}
		if !slices.Contains(serverSchemes, parsed.Scheme) {
			return "must have nats, tls, ws or wss as scheme"
		}
		if port := parsed.Port(); port != "" && !isPort(port) {
			return portsRule
		}
	}
	return ""
}

const portsRule = "must have ports from 1 to 65535"

// isPort reports whether one can connect to a port.
func isPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}

// maxPrefixLength is that of a prefix on the bus, in bytes.
const maxPrefixLength = 256

// prefixRule keeps what is published under the prefix a valid, literal subject
// outside the server's own. It is the rule of the bus, where a setting can't ask.
func prefixRule(prefix string) string {
	if len(prefix) > maxPrefixLength {
		return fmt.Sprintf("must have at most %d bytes", maxPrefixLength)
	}
	if !utf8.ValidString(prefix) {
		return "must be UTF-8"
	}
	for token := range strings.SplitSeq(prefix, ".") {
		switch {
		case token == "":
			return "must have no empty token"
		case token[0] == '$':
			return "must have no token that starts with $, which is for NATS itself"
		case strings.ContainsFunc(token, isSpaceOrControl):
			return "must have no spaces or control characters"
		case strings.ContainsAny(token, "*>"):
			return "must have no wildcards (* and >)"
		case strings.Contains(token, "{{"):
			return "must have no {{, with which the functions of subject mappings begin"
		}
	}
	return ""
}

// inboxRule keeps the requests apart from the answers to them.
func inboxRule(prefix string) string {
	if first, _, _ := strings.Cut(prefix, "."); first == "_INBOX" {
		return "must not begin with _INBOX, where answers come"
	}
	return ""
}

func isSpaceOrControl(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
