package embedded

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// headcountPoll is how often a server compares whom JetStream counts with whom
	// the routes name.
	headcountPoll = 5 * time.Second
	// silentAfter is when a server that the leader does not hear is away. Each answers
	// it once a second; the others notice the end of one that died after minutes.
	silentAfter = 10 * time.Second
)

// headcount is whom JetStream counts. It knows a server by its name, for good: one
// that comes back under another name is counted twice, and so is the place of a lost
// one that another took under a name of its own. A majority of all these is then
// more than one of the nodes that there are.
type headcount struct {
	counted  int // servers
	majority int // so many of them
	named    int // nodes that the routes name
	away     []string
}

// beyondRoutes reports whether JetStream counts on a server that is away, and that the
// routes have no place for.
func (h headcount) beyondRoutes() bool { return h.counted > h.named && len(h.away) > 0 }

func (h headcount) String() string {
	return fmt.Sprintf("JetStream counts %d servers and needs %d, and the routes name %d; away: %s",
		h.counted, h.majority, h.named, strings.Join(h.away, ", "))
}

// headcount is the zero value where the cluster is the file's, which need not name
// all servers.
func (s *Server) headcount() headcount {
	if !s.ownCluster {
		return headcount{}
	}
	meta := s.meta()
	if meta == nil {
		return headcount{}
	}
	h := headcount{counted: meta.Size, majority: meta.QuorumNeeded, named: s.nodes()}
	leads := meta.Leader == s.Name()
	for _, peer := range meta.Replicas {
		if peer.Offline || leads && peer.Active > silentAfter {
			h.away = append(h.away, peerName(peer))
		}
	}
	return h
}

// peerName is the name of a server. Where this one has not met it since it was
// started, only the ID is known that JetStream makes of the name.
func peerName(peer *server.PeerInfo) string {
	if strings.HasSuffix(peer.Name, "(peerID: "+peer.Peer+")") {
		return "one of unknown name with peer ID " + peer.Peer
	}
	return peer.Name
}

// nodes is the number of nodes that the routes name, and this one where it is not
// among them.
func (s *Server) nodes() int {
	others := 0
	for _, route := range s.routes {
		if !s.isSelf(route, s.lookup(route.Hostname())) {
			others++
		}
	}
	return others + 1
}

// watchHeadcount warns, until the server ends, where JetStream counts on a server that
// the routes have no place for: once, and again when others are away.
func (s *Server) watchHeadcount() {
	poll := time.NewTicker(headcountPoll)
	defer poll.Stop()
	var said []string
	for {
		select {
		case <-poll.C:
		case <-s.life.Done():
			return
		}
		h := s.headcount()
		if !h.beyondRoutes() {
			said = nil
			continue
		}
		if slices.Equal(h.away, said) {
			continue
		}
		s.logger.Warn("JetStream counts more servers than the routes name, which makes a majority larger: "+
			"start the node that is away under its old name, and one in the place of a lost node under the name of that one",
			"counted", h.counted, "majority", h.majority, "named", h.named, "away", strings.Join(h.away, ", "))
		said = h.away
	}
}
