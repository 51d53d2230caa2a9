package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	quorumPoll = 100 * time.Millisecond
	// quorumQuiet is how long a wait is nothing to speak of, and quorumRepeat
	// how often the log says again what is known already.
	quorumQuiet  = 2 * time.Second
	quorumRepeat = 15 * time.Second
	// lookupTimeout bounds the look-up of a route's host.
	lookupTimeout = time.Second
)

// ErrNoJetStream: JetStream was to run and did not start, or has ended by itself,
// as it does where its disk is full or fails. It stays so until the server is
// started again.
var ErrNoJetStream = errors.New("JetStream did not start or has ended; nats-server's log says why")

// JetStreamReady reports whether JetStream can be used: at once where the server
// stands alone, and in a cluster when a majority of it has a leader and this
// server has what the leader has. Otherwise it says for what it waits.
//
// The first start of a cluster takes all servers that its routes name: only then
// is it known that none has anything. From then on a majority is enough.
func (s *Server) JetStreamReady() (ready bool, waitingFor string) {
	if !s.ns.JetStreamEnabled() {
		return false, "JetStream, which is not enabled"
	}
	if !s.ns.JetStreamIsClustered() {
		return true, ""
	}
	leader := s.metaLeader()
	// A server that was started again takes itself to be current before it
	// has heard from anybody.
	if leader != "" && s.ns.JetStreamIsCurrent() {
		return true, ""
	}
	names, missing := s.peers()
	switch {
	case leader != "":
		waitingFor = fmt.Sprintf("what the leader, %s, has", leader)
	case missing != "":
		waitingFor = "other servers; no route to " + missing
	default:
		waitingFor = "the election of a leader"
	}
	if len(names) > 0 {
		waitingFor += "; connected to " + strings.Join(names, ", ")
	}
	if leader != "" {
		return false, waitingFor
	}
	// A server that is there under another name than JetStream knows has its route,
	// and is missed all the same.
	if h := s.headcount(); h.beyondRoutes() || missing == "" && len(h.away) > 0 {
		waitingFor += "; " + h.String()
	}
	return false, waitingFor
}

// JetStreamEnabled reports whether the server has JetStream. One that had it has
// it no more after its disk was full or failed, until it is started again.
func (s *Server) JetStreamEnabled() bool { return s.ns.JetStreamEnabled() }

// JetStreamClustered reports whether JetStream is shared with other servers, by
// the options or by the file. It is false where JetStream is not enabled.
func (s *Server) JetStreamClustered() bool { return s.ns.JetStreamIsClustered() }

// WaitForQuorum returns nil when JetStream is ready, as [Server.JetStreamReady]
// has it, and an error that says for what it waited when ctx ends, when the
// server ends, or at once without JetStream; that is [ErrNoJetStream] where it
// has ended by itself. It tells in the log for what it waits: the servers may be
// started in any order, with any time in between. From the first call on the log
// also warns where JetStream counts more servers than [Cluster.Routes] names, and
// one of them is away.
func (s *Server) WaitForQuorum(ctx context.Context) error {
	if !s.jetStream {
		return errors.New("embedded: wait for a quorum: JetStream is not enabled")
	}
	if s.ownCluster {
		s.watchOnce.Do(func() { s.watching.Go(s.watchHeadcount) })
	}
	poll := time.NewTicker(quorumPoll)
	defer poll.Stop()
	begun := time.Now()
	var said string
	var saidAt time.Time
	for {
		ready, waitingFor := s.JetStreamReady()
		if ready {
			if said != "" {
				s.logger.Info("the cluster is ready", "after", time.Since(begun).Round(time.Millisecond))
			}
			return nil
		}
		if !s.ns.JetStreamEnabled() && s.life.Err() == nil {
			return fmt.Errorf("embedded: nats-server %s waits for the cluster: %w", s.Name(), ErrNoJetStream)
		}
		due := time.Since(begun) >= quorumQuiet && waitingFor != said
		if due || said != "" && time.Since(saidAt) >= quorumRepeat {
			s.logger.Info("waiting for the cluster", "for", waitingFor, "since", time.Since(begun).Round(time.Second))
			said, saidAt = waitingFor, time.Now()
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("embedded: nats-server %s waits for %s: %w", s.Name(), waitingFor, context.Cause(ctx))
		case <-s.life.Done():
			return fmt.Errorf("embedded: nats-server %s has ended while it waited for %s", s.Name(), waitingFor)
		}
	}
}

// metaLeader is the name of the server that leads JetStream's cluster, as far as
// this one knows; empty where there is none.
func (s *Server) metaLeader() string {
	if meta := s.meta(); meta != nil {
		return meta.Leader
	}
	return ""
}

// meta is what this server knows of JetStream's cluster; nil where it is in none.
func (s *Server) meta() *server.MetaClusterInfo {
	info, err := s.ns.Jsz(&server.JSzOptions{})
	if err != nil {
		return nil
	}
	return info.Meta
}

// peers returns the names of the servers that this one has a route to, and the
// configured URLs that lead to none of them.
func (s *Server) peers() (names []string, missing string) {
	routez, err := s.ns.Routez(nil)
	if err != nil {
		return nil, ""
	}
	found := map[string]bool{} // by name: whether a URL leads there
	for _, route := range routez.Routes {
		found[route.RemoteName] = false
	}
	names = slices.Sorted(maps.Keys(found))

	var urls []string
	for _, url := range s.routes {
		addrs := s.lookup(url.Hostname())
		reached := s.isSelf(url, addrs)
		for _, route := range routez.Routes {
			if leadsTo(url, addrs, route) {
				reached, found[route.RemoteName] = true, true
			}
		}
		if !reached {
			urls = append(urls, url.Redacted())
		}
	}
	// Of a connection that the other side made nothing but its name and its
	// address is known. So it may be that some have a URL that is not told from
	// those of others, as on one machine.
	unknown := 0
	for _, known := range found {
		if !known {
			unknown++
		}
	}
	switch list := strings.Join(urls, ", "); {
	case unknown == 0:
		return names, list
	case unknown < len(urls):
		return names, fmt.Sprintf("%d of %s", len(urls)-unknown, list)
	default:
		return names, ""
	}
}

// leadsTo reports whether a URL, whose host has these addresses, is that of the
// server on the other side of a route, as far as can be told.
func leadsTo(url *url.URL, addrs []string, route *server.RouteInfo) bool {
	if isNamed(url, route.RemoteName) {
		return true
	}
	if !slices.Contains(addrs, route.IP) {
		return false
	}
	dialled := url.Port() == fmt.Sprint(route.Port)
	return dialled || !net.ParseIP(route.IP).IsLoopback()
}

// isSelf reports whether a route leads to this server itself.
func (s *Server) isSelf(route *url.URL, addrs []string) bool {
	if route.Host == s.advertise {
		return true
	}
	own, ok := s.clusterAddr.(*net.TCPAddr)
	if !ok || route.Port() != fmt.Sprint(own.Port) {
		return false
	}
	if isNamed(route, s.Name()) || slices.Contains(addrs, own.IP.String()) {
		return true
	}
	if !own.IP.IsUnspecified() {
		return false
	}
	local, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(local, func(addr net.Addr) bool {
		ip, ok := addr.(*net.IPNet)
		return ok && slices.Contains(addrs, ip.IP.String())
	})
}

// isNamed reports whether a route's host is a server's name, or begins with it as
// in kvbus-0.kvbus.svc.
func isNamed(route *url.URL, name string) bool {
	label, _, _ := strings.Cut(route.Hostname(), ".")
	return strings.EqualFold(route.Hostname(), name) || strings.EqualFold(label, name)
}

func (s *Server) lookup(host string) []string {
	if net.ParseIP(host) != nil {
		return []string{host}
	}
	ctx, cancel := context.WithTimeout(s.life, lookupTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil // it may be that its server was not started yet
	}
	return addrs
}
