package service

import (
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
)

// Name is the name of the service in the discovery of NATS micro services.
const Name = "kvbus"

const description = "A key-value service on the bus: get, set, compare-and-swap, counters, deadlines, events"

// discovery answers the control subjects of NATS micro services, $SRV.PING,
// $SRV.INFO and $SRV.STATS, with the types of [micro].
//
// The service does without micro.AddService itself: that counts an endpoint's
// requests and errors when its handler returns, while here a request is
// answered later, from a queue; and it offers no way to answer, rather than
// drop, what comes when the queue is full.
type discovery struct {
	identity  micro.ServiceIdentity
	started   time.Time
	endpoints []*endpoint
	control   subscriptions
	// answering is held while an answer is sent, and by who wants none to be sent.
	answering sync.Mutex
}

// listen subscribes to the control subjects. The claim answers along with PING, and
// hears of others.
func (d *discovery) listen(subjects bus.Subjects, claim *claim) error {
	for verb, answer := range map[micro.Verb]func(*nats.Msg) any{
		micro.PingVerb: func(m *nats.Msg) any {
			identity := d.identity
			identity.Metadata = maps.Clone(identity.Metadata)
			claim.meet(m.Header, identity.Metadata)
			return micro.Ping{ServiceIdentity: identity, Type: micro.PingResponseType}
		},
		micro.InfoVerb:  func(*nats.Msg) any { return d.info() },
		micro.StatsVerb: func(*nats.Msg) any { return d.stats() },
	} {
		for _, address := range [][2]string{{"", ""}, {Name, ""}, {Name, d.identity.ID}} {
			subject, err := micro.ControlSubject(verb, address[0], address[1])
			if err != nil {
				return err
			}
			err = d.control.add(subject, "", func(m *nats.Msg) {
				if subjects.ValidateReply(m.Reply) != nil {
					return
				}
				d.answering.Lock()
				defer d.answering.Unlock()
				body, err := json.Marshal(answer(m))
				if err == nil && m.Reply != "" {
					_ = m.Respond(body) // the connection reports its own failures
				}
			})
			if err != nil {
				return err
			}
		}
	}
	return d.control.add(claim.inbox, "", claim.hear)
}

func (d *discovery) info() micro.Info {
	info := micro.Info{ServiceIdentity: d.identity, Type: micro.InfoResponseType, Description: description}
	for _, e := range d.endpoints {
		info.Endpoints = append(info.Endpoints, micro.EndpointInfo{
			Name: e.name, Subject: e.subject, QueueGroup: micro.DefaultQueueGroup, Metadata: e.metadata,
		})
	}
	return info
}

func (d *discovery) stats() micro.Stats {
	stats := micro.Stats{ServiceIdentity: d.identity, Type: micro.StatsResponseType, Started: d.started}
	for _, e := range d.endpoints {
		s := e.stats.snapshot()
		s.Name, s.Subject, s.QueueGroup = e.name, e.subject, micro.DefaultQueueGroup
		stats.Endpoints = append(stats.Endpoints, &s)
	}
	return stats
}
