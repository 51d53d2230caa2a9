package embedded

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// routePing and routePings bound how long a peer that is silent, as one
	// cut off by the network is, still gets messages that are meant for any one
	// of a queue group: some eight seconds. nats-server's defaults are 30
	// seconds and two pings, a minute and a half.
	//
	// What elects a leader has clocks of its own, which can't be set: one that
	// is silent is replaced after four to nine seconds.
	routePing  = 2 * time.Second
	routePings = 3

	// routeReports has one failure in so many to connect again to a peer that
	// is gone in the log, beside the first: one a minute for each connection.
	// nats-server's default is each, four lines a second.
	routeReports = 60
)

// Cluster makes the server one of several. The zero value is no cluster.
//
// A server in a cluster needs [Options.ServerName], another one on each and the
// same after a restart: JetStream knows its peers by it, for good. One in the place of
// a server that is lost takes its name.
type Cluster struct {
	// Name is the name of the cluster, the same on all servers, without
	// spaces. It must be set.
	Name string

	// Listen is the address for the other servers, "host:port", with the rules
	// of [Options.Listen]. It must be set.
	Listen string

	// Advertise is the "host:port" by which others reach this server, where
	// that is not the address it listens on. Empty: that one.
	Advertise string

	// Routes are the URLs of the servers, such as nats://host:6222; the scheme
	// may be left out. The server's own may be among them or not. With
	// JetStream there must be one. The first start of a cluster waits for as
	// many servers as there are URLs: name all servers, and none by two names.
	Routes []string

	// User and Password are what servers show each other; both or neither. A
	// URL in Routes with a user of its own keeps it.
	User, Password string

	// TLS secures the connections between servers.
	TLS ClusterTLS

	// Local are subjects of which the server tells the others nothing: who
	// subscribes to one of them gets what clients of this server publish, and nothing
	// from other servers. A wider subscription, such as ">", gets everything. Routes
	// know no accounts, so with more than one of them in the file this has no
	// effect, which [Server.Local] tells.
	Local []string
}

// ClusterTLS names the PEM files for connections between servers, all three or
// none. Each server shows its certificate, as server and as client, and demands
// one of the other side; a server's has the host names of the others' routes.
type ClusterTLS struct {
	CA, Cert, Key string
}

func (c Cluster) none() bool {
	return c.Name == "" && c.Listen == "" && c.Advertise == "" && len(c.Routes) == 0 &&
		c.User == "" && c.Password == "" && c.TLS == ClusterTLS{} && len(c.Local) == 0
}

// applyCluster takes the cluster from the options or from the file, and never a
// part of it from each: half of one that is mixed with half of another is a
// cluster that nobody meant. The file may tune what the options have no word
// for, such as compression.
func (o Options) applyCluster(so *server.Options) error {
	c := o.Cluster
	if c.none() {
		return nil
	}
	file := so.Cluster
	if file.Name != "" || file.Host != "" || file.Port != 0 || file.Advertise != "" || file.Username != "" || file.TLSConfig != nil || len(so.Routes) > 0 {
		return fmt.Errorf("embedded: config file %q and the options each have a cluster: must be one of them", o.ConfigFile)
	}
	if c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n") {
		return fmt.Errorf("embedded: Cluster.Name is %q: must be set, without spaces", c.Name)
	}
	if so.ServerName == "" {
		return errors.New("embedded: ServerName is empty: must be set in a cluster, to another name on each server")
	}
	host, port, err := parseListen(c.Listen)
	if err != nil {
		return fmt.Errorf("embedded: Cluster.Listen is %q: %w", c.Listen, err)
	}
	if c.Advertise != "" {
		if _, advertised, err := parseListen(c.Advertise); err != nil || advertised <= 0 {
			return fmt.Errorf("embedded: Cluster.Advertise is %q: must be host:port", c.Advertise)
		}
	}
	if (c.User == "") != (c.Password == "") {
		return errors.New("embedded: only one of Cluster.User and Cluster.Password is set: must be both or neither")
	}
	routes, err := c.routes()
	if err != nil {
		return err
	}
	if so.JetStream && len(routes) == 0 {
		return errors.New("embedded: Cluster.Routes is empty: must have a URL with JetStream, which waits for a majority")
	}
	if err := c.applyTLS(so); err != nil {
		return err
	}
	so.Cluster.Name = c.Name
	so.Cluster.Host, so.Cluster.Port = host, port
	so.Cluster.Advertise = c.Advertise
	so.Cluster.Username, so.Cluster.Password = c.User, c.Password
	so.Routes = routes
	if so.Cluster.PingInterval == 0 && so.Cluster.MaxPingsOut == 0 {
		so.Cluster.PingInterval, so.Cluster.MaxPingsOut = routePing, routePings
	}
	if so.ReconnectErrorReports == 0 {
		so.ReconnectErrorReports = routeReports
	}
	if c.keepsLocal(so) {
		c.applyLocal(so)
	}
	return nil
}

// keepsLocal reports whether Local has an effect.
func (c Cluster) keepsLocal(so *server.Options) bool {
	return len(c.Local) > 0 && accounts(so) <= 1 && len(so.TrustedOperators) == 0 && len(so.TrustedKeys) == 0
}

// accounts counts the accounts that clients may be in, but for the system's.
func accounts(so *server.Options) int {
	n := 0
	for _, account := range so.Accounts {
		if name := account.GetName(); name != so.SystemAccount && name != server.DEFAULT_SYSTEM_ACCOUNT {
			n++
		}
	}
	// Whoever is in none of them is in the global one.
	global := so.Username != "" || so.Authorization != "" ||
		slices.ContainsFunc(so.Users, func(u *server.User) bool { return u.Account == nil }) ||
		slices.ContainsFunc(so.Nkeys, func(u *server.NkeyUser) bool { return u.Account == nil })
	if global || n == 0 {
		n++
	}
	return n
}

// applyLocal lets routes bring nothing of the local subjects, whatever the file has
// them bring. That the others may bring something is theirs to say.
func (c Cluster) applyLocal(so *server.Options) {
	var permissions server.RoutePermissions
	if so.Cluster.Permissions != nil {
		permissions = *so.Cluster.Permissions
	}
	var imports server.SubjectPermission
	if permissions.Import != nil {
		imports = *permissions.Import
	}
	imports.Deny = slices.Concat(imports.Deny, c.Local)
	permissions.Import = &imports
	so.Cluster.Permissions = &permissions
}

// routes parses the URLs and leaves out what comes twice, which would count as
// another server.
func (c Cluster) routes() ([]*url.URL, error) {
	var routes []*url.URL
	for _, text := range c.Routes {
		text = strings.TrimSpace(text)
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		route, err := url.Parse(text)
		if err != nil {
			// Its error shows the URL, and a password with it.
			return nil, errors.New("embedded: a URL of Cluster.Routes can't be parsed: must be like nats://host:6222")
		}
		port, err := strconv.Atoi(route.Port())
		if err != nil || port < 1 || port > math.MaxUint16 || route.Hostname() == "" {
			return nil, fmt.Errorf("embedded: a URL of Cluster.Routes is %q: must be like nats://host:6222", route.Redacted())
		}
		if slices.ContainsFunc(routes, func(other *url.URL) bool { return other.Host == route.Host }) {
			continue
		}
		if route.User == nil && c.User != "" {
			route.User = url.UserPassword(c.User, c.Password)
		}
		routes = append(routes, route)
	}
	return routes, nil
}

func (c Cluster) applyTLS(so *server.Options) error {
	if c.TLS == (ClusterTLS{}) {
		return nil
	}
	if c.TLS.CA == "" || c.TLS.Cert == "" || c.TLS.Key == "" {
		return fmt.Errorf("embedded: Cluster.TLS is %+v: must have all three files", c.TLS)
	}
	config, err := server.GenTLSConfig(&server.TLSConfigOpts{
		CaFile:   c.TLS.CA,
		CertFile: c.TLS.Cert,
		KeyFile:  c.TLS.Key,
		Verify:   true,
	})
	if err != nil {
		return fmt.Errorf("embedded: Cluster.TLS is %+v: %w", c.TLS, err)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.RootCAs = config.ClientCAs
	so.Cluster.TLSConfig = config
	return nil
}

// Local reports whether the server keeps [Cluster.Local] to itself.
func (s *Server) Local() bool { return s.local }

// ClusterAddr is the address that the server listens on for other servers, with
// the port that it got where any free one was asked for. It is nil without a
// cluster.
func (s *Server) ClusterAddr() net.Addr { return s.clusterAddr }
