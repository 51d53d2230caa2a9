// Package watchbridge publishes what happens in a store on the bus: every
// mutation, in revision order, on the events subject of its key.
//
// # Ordering and completeness
//
// The bridge reads a store's events from its ring and publishes them one after
// the other. What was published counts once the server has confirmed it with a
// round trip. A connection that breaks is never used again: the bridge makes a
// new one and goes on after the last confirmed event. So no event is left out
// or overtakes another as long as the store's ring holds what could not be
// published. An event may come twice after a connection broke, which its
// revision shows.
//
// An event that the ring has dropped before it could be published, and confirmed, is
// lost to subscribers of a store in memory. They see a gap in the revisions; the log
// has a line, and [Bridge.Stats] a count.
//
// So it is with events that the permissions of the bridge's user forbid, of any store:
// the server takes the others.
//
// Where workers share a store by a log ([Log]), one of them publishes, elected
// by JetStream, which also remembers how far it came: the next one goes on
// there. Events then come twice after another worker took over, and none is
// left out: what that worker's ring has dropped is made anew from a snapshot and
// the log, which are kept until their events are published. That takes time, and
// as much memory again as the store while it lasts. Events are lost only
// where neither leads to them, as when somebody has removed a part of the log and the
// next publisher's ring has not all that was in it; some may come twice then.
//
// Confirmed is what the bridge's own server has. In a cluster it sends an event on to
// the others after that, and one that is killed in between keeps it from
// subscribers there. A watch that misses nothing finds it by the heartbeats.
//
// # Heartbeats
//
// On a subject of its own the bridge tells how far the events came: at most a
// second after an event, and every ten seconds while nothing happens. So a
// watcher that lost the last event learns it, and one that hears nothing knows
// that something is wrong. Workers that share a store send one between them.
//
// # Slow servers
//
// Nothing waits for the bridge: commands go on while it is behind, and what it
// has yet to publish takes no memory beyond the ring's bounds, and that of the
// history of a log. What is published and not confirmed has a bound, by which the
// bridge is as quick as the connection is: it never has more on its way than what
// may be confirmed in time. Only a connection that carries less than 64 KiB a
// second is taken for broken.
//
// # Shutdown
//
// Close the store; the bridge publishes what is due, and [Bridge.Wait] returns.
// Where nothing is due, it does not wait for a server that is away.
package watchbridge
