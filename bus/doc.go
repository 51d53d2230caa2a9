// Package bus is the wire protocol of kvbus as code: the subjects, the headers,
// the bodies and the errors that PROTOCOL.md in this folder describes, in both
// directions. A service decodes requests and encodes replies and events; a
// client encodes requests and decodes replies and events.
//
// # What it is not
//
// Nothing here opens a connection, and only watches subscribe and keep state. The
// package needs nats.go and the contract in [kvbus/kv], so that a service that
// only speaks the protocol stays small.
//
// # Guarantees
//
// What is encoded decodes to the same thing, and a key has exactly one subject:
// the mapping of [Subjects] is one-to-one in both directions, so that subject
// permissions can't be passed by another spelling.
//
// A decoder of requests gives the whole request or an error, never a part of
// it. Its errors wrap [kv.ErrInvalidKey] or [kv.ErrInvalidArgument], and name
// the input and the rule that it broke. What is malformed in a reply or an event
// is a fault of the service, [kv.ErrInternal]. No input makes a decoder panic.
//
// # Watches
//
// A watch gives every mutation of every key that it selects, after its starting
// point, once, in the order of revisions, over lost connections, restarts of
// workers and changes of the publisher; or it ends with [kv.ErrCompacted]. With
// [FollowOptions.Restart] it goes on from the current state instead, and says so.
//
// It subscribes first, and replays what it may have lost: after a reconnect, after
// the client dropped messages, and where the revision before an event is not one
// that it has seen. Heartbeats tell of events that never came. What the network
// loses between two servers shows to a watch of all keys at once. A watch of some
// keys finds it with the next event of the key, or when it compares with what the
// store holds, every [FollowOptions.AuditInterval] while the store changes. If it
// has given later events by then, it ends as above; if the store no longer holds
// what to compare with, it can't tell, and gives [NoticeUnaudited].
//
// A watch costs the service nothing while nothing changes, and no state ever: it
// is a plain subscription. All watches of a client share the heartbeats. One that
// hears nothing for [FollowOptions.Silence] asks, tells [FollowOptions.Notify]
// that it is stale if there is no answer, and asks again until there is one.
//
// A slow consumer is bounded by [FollowOptions.MaxPending] and MaxPendingBytes.
// Beyond, events are dropped, and fetched in pages once it goes on.
//
// # Memory
//
// Decoded values are copies. Decoded keys share the memory of the subject,
// which is a string and can't change. A request without headers decodes with
// one allocation, the copy of its body; an empty token in its key needs more.
//
// An [Encoder] owns the message that it returns and uses it again for the next
// one: publish it first, which copies it, then encode the next.
package bus
