package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// maxDefaultReplicas is how many nodes hold the store where nobody says: more
// make writes slower, and survive what seldom happens.
const maxDefaultReplicas = 3

// NewReplicas is the number of servers that hold a durable store which is made
// where store.replicas asks for none: as many as the cluster has nodes, at most
// three. It is 1 without a cluster, on an external server, and with a cluster in a
// nats-server.conf, of which nothing is known.
//
// Every node comes to the same number if all have the same routes.
func (c Config) NewReplicas() int {
	if !c.Cluster.Enabled() {
		return 1
	}
	return min(c.Cluster.nodes(), maxDefaultReplicas)
}

// nodes is the number of nodes that the routes name, and this one where it is
// not among them. Where it is, but can't be told from the others, as if it
// listens on every interface and is known by a name that is not the node's, that
// is one too many, which makes a difference to two nodes only.
func (c Cluster) nodes() int {
	others := 0
	seen := map[string]bool{}
	for _, route := range c.Routes.List() {
		if address := routeAddress(route); !seen[address] && !c.isSelf(address) {
			seen[address] = true
			others++
		}
	}
	return others + 1
}

// isSelf reports whether an address of a route is this node's own, as far as
// its settings tell: it is the one that it listens on or advertises, or its host
// is the node's name or begins with it, as in kvbus-0.kvbus.svc.
func (c Cluster) isSelf(address string) bool {
	if address == c.Listen || address == c.Advertise {
		return true
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, ownPort, err := net.SplitHostPort(c.Listen)
	if err != nil || port != ownPort {
		return false
	}
	label, _, _ := strings.Cut(host, ".")
	return c.NodeName != "" && (strings.EqualFold(host, c.NodeName) || strings.EqualFold(label, c.NodeName))
}

func routeAddress(route string) string {
	parsed, err := url.Parse(route)
	if err != nil {
		return route
	}
	return parsed.Host
}

func (v *validator) checkCluster(c Cluster) {
	v.require(!strings.Contains(string(c.Password), mask), "cluster.password", "is the mask of a printed configuration, not a password")
	v.require(!strings.Contains(string(c.Routes), mask), "cluster.routes", "has the mask of a printed configuration in place of a secret")
	if !c.Enabled() {
		v.checkNoCluster(c)
		return
	}
	const external = "is for embedded servers, and nats.url or nats.context names an external one"
	v.require(!v.config.NATS.External(), "cluster.listen", external, "nats.url", "nats.context")
	v.require(v.config.NATS.External() || v.config.Store.DataDir != "", "cluster.listen", "needs store.data_dir, where this node keeps its share", "store.data_dir")

	if rule := routeListenRule(c.Listen); rule != "" {
		v.require(false, "cluster.listen", rule)
	}
	if c.Advertise != "" {
		if rule := routeListenRule(c.Advertise); rule != "" {
			v.require(false, "cluster.advertise", rule)
		} else if host, _, _ := net.SplitHostPort(c.Advertise); host == "" || net.ParseIP(host).IsUnspecified() {
			v.require(false, "cluster.advertise", "must have a host by which the other nodes reach this one")
		}
	}
	v.require(c.NodeName != "", "cluster.node_name", "must be set with cluster.listen, to another name on each node", "cluster.listen")
	v.require(!strings.ContainsFunc(c.NodeName, isSpaceOrControl), "cluster.node_name", "must have no spaces or control characters")
	v.require(c.Name != "", "cluster.name", "must not be empty")
	v.require(!strings.ContainsFunc(c.Name, isSpaceOrControl), "cluster.name", "must have no spaces or control characters")
	v.checkRoutes(c)

	v.require(c.Password == "" || c.User != "", "cluster.password", "needs cluster.user", "cluster.user")
	v.require(c.User == "" || c.Password != "", "cluster.user", "needs cluster.password", "cluster.password")
	tls := c.TLS
	const mutual = "must be set where another of cluster.tls is: nodes check each other"
	none := tls == ClusterTLS{}
	v.require(none || tls.CA != "", "cluster.tls.ca", mutual)
	v.require(none || tls.Cert != "", "cluster.tls.cert", mutual)
	v.require(none || tls.Key != "", "cluster.tls.key", mutual)
}

// checkNoCluster refuses what would have no effect without a cluster.
func (v *validator) checkNoCluster(c Cluster) {
	const rule = "needs cluster.listen: without it there is no cluster"
	v.require(c.NodeName == "", "cluster.node_name", rule)
	v.require(c.Name == Default().Cluster.Name, "cluster.name", rule)
	v.require(c.Advertise == "", "cluster.advertise", rule)
	v.require(c.Routes == "", "cluster.routes", rule)
	v.require(c.User == "", "cluster.user", rule)
	v.require(c.Password == "", "cluster.password", rule)
	v.require(c.TLS.CA == "", "cluster.tls.ca", rule)
	v.require(c.TLS.Cert == "", "cluster.tls.cert", rule)
	v.require(c.TLS.Key == "", "cluster.tls.key", rule)
}

func (v *validator) checkRoutes(c Cluster) {
	if rule := routesRule(c.Routes); rule != "" {
		v.require(false, "cluster.routes", rule)
		return
	}
	v.require(c.nodes() > 1, "cluster.routes", "must name another node than this one", "cluster.listen", "cluster.node_name")
	// A node shows what its routes say, and asks others only for what cluster says.
	for _, route := range c.Routes.List() {
		parsed, err := url.Parse(route)
		if err != nil {
			continue // routesRule tells
		}
		v.require(parsed.Scheme != "tls" || c.TLS != ClusterTLS{}, "cluster.routes", "must not have tls as scheme without cluster.tls: the nodes would speak in clear", "cluster.tls.ca")
		masked := strings.Contains(route, mask) // which is told already
		v.require(parsed.User == nil || c.User != "" || masked, "cluster.routes", "must have no user without cluster.user: the nodes would let in anybody", "cluster.user")
	}
}

// checkReplicas holds the number of replicas against the servers there are.
func (v *validator) checkReplicas(s Store) {
	c := v.config.Cluster
	v.require(slices.Contains([]int{0, 1, 3, 5}, s.Replicas), "store.replicas", "must be 1, 3 or 5, or 0 for those that the store has")
	switch {
	case c.Enabled() && routesRule(c.Routes) == "":
		nodes := c.nodes()
		v.require(s.Replicas <= nodes, "store.replicas",
			fmt.Sprintf("must not be more than the nodes, and cluster.routes names %d with this one", nodes), "cluster.routes")
		v.require(s.Replicas != 0 || nodes != 2, "store.replicas",
			"must be set with two nodes, to 1: neither has a majority without the other; three nodes survive the loss of one", "cluster.routes")
	case s.Replicas == 0 || c.Enabled() || s.Replicated:
	case s.DataDir == "":
		v.require(false, "store.replicas", "needs a durable store: store.data_dir or store.replicated", "store.data_dir", "store.replicated")
	case v.config.NATS.Config == "": // else the cluster may be in that file
		v.require(s.Replicas == 1, "store.replicas", "must not be more than the one node that there is without cluster.listen", "cluster.listen")
	}
}

// The functions below return the rule that a value breaks, or nothing.

func routeListenRule(address string) string {
	if rule := listenRule(address); rule != "" {
		return rule
	}
	if _, port, _ := net.SplitHostPort(address); !isPort(port) {
		return "must have a port from 1 to 65535, which the routes of the other nodes can name"
	}
	return ""
}

func routesRule(routes URLs) string {
	if routes == "" {
		return "must name the nodes, with or without this one"
	}
	for _, route := range routes.List() {
		if route == "" {
			return "must have a node between two commas"
		}
		parsed, err := url.Parse(route)
		if err != nil || parsed.Hostname() == "" || parsed.Port() == "" {
			return "must be nodes like nats://host:6222, comma separated"
		}
		if !slices.Contains(routeSchemes, parsed.Scheme) {
			return "must have nats, nats-route or tls as scheme"
		}
		if !isPort(parsed.Port()) {
			return portsRule
		}
	}
	return ""
}
