// Package bus is the wire protocol of kvbus as code: the subjects, the headers,
// the bodies and the errors that PROTOCOL.md in this folder describes, in both
// directions. A service decodes requests and encodes replies and events; a
// client encodes requests and decodes replies and events. [Client] is such a
// client: a [kv.Store] on the other side of a connection.
//
// # What it is not
//
// Nothing here opens a connection, and only [Client] subscribes and keeps state.
// The package needs nats.go and the contract in [kvbus/kv], so that a service that
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
// # The client
//
// [NewClient] takes a connection that the caller opens and closes; any number of
// clients share one. A [kv.Handle] makes it comfortable:
//
//	client, err := bus.NewClient(nc, bus.ClientOptions{})
//	h := kv.Of(client)
//	revision, err := h.Set(ctx, "color", "blue")
//
// Commands that one goroutine gives one after the other take effect in that order,
// as each is answered before the next is sent; those of several goroutines come in
// any order. A call ends with its context, or after [ClientOptions.Timeout] if that
// has no deadline, also while the connection is made. Only a server that takes nothing
// holds up a call, which is written by its caller: until [nats.FlusherTimeout], a minute
// if it is not set. Less is advisable, with [nats.ReconnectOnFlusherError]. The start and
// the end of a watch, and [Client.Close], also wait for a connection that is just being
// made, for [nats.Timeout] at most. A call runs in the goroutine of its caller. At most
// [ClientOptions.MaxCalls] are under way, and one answer has at most
// [ClientOptions.MaxAnswerBytes], or one entry; so much may be in memory.
//
// The answer to a scan or a replay is that to one request, of one revision. It
// says how many messages it has; if one is lost, all of it is asked for again, and
// there is never a part of an answer. Large stores are read page by page, as
// [kv.Handle.Entries] does, or the server cuts off a reader that is slow.
//
// # Retries
//
// A request is sent again, after a pause that grows from 10ms to a second, where
// that can do no harm:
//
//   - anything that was not carried out for certain: nobody serves, the service
//     says "unavailable" or "overloaded", or there is no connection;
//   - a read, and a command with a RequestID, when it is not known what became of
//     it: no answer within [ClientOptions.AttemptTimeout], the answer "timeout", or
//     a connection that was lost. For a command that ends after
//     [ClientOptions.RepeatWindow].
//
// A command without a RequestID is not sent again in that case, and fails with
// [kv.ErrTimeout]: it may have taken effect, or may do so yet. Nothing is sent
// while there is no connection, so that nothing waits in a buffer to be carried out
// after its time. [ClientOptions.NoRetry] ends all of that.
//
// # Errors
//
// The errors are those of [kv.Store], whether they were made here or came over the
// wire. Two promise that nothing was done and are not repeated: [kv.ErrClosed], of
// a client or a connection that was closed, and [ErrForbidden], of a request that
// NATS permissions refuse. A server tells of a refusal by an error of the
// connection, not of the request. The client looks at the last error of the
// connection when it is new, when a call begins, and while calls are under way;
// [Client.HandleError] does better where much may be refused at a time.
//
// [Client.Close] ends calls and watches. Commands that were sent by then fail with
// [kv.ErrTimeout].
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
// what to compare with, or has given more than some thousand events meanwhile, it
// can't tell, and gives [NoticeUnaudited].
//
// A store in memory begins anew with its process, and its revisions with it. A watch
// finds that by the epoch in the heartbeats, and where it has none to compare with,
// or was away, by the age of the worker. If that leaves a doubt, it ends as above.
//
// A watch of keys whose events the connection may not subscribe to ends with
// [ErrForbidden]. One that may not ask for the age of the worker (the operation
// info) relies on the epoch alone.
//
// Once it has started, a watch costs the service nothing while nothing changes, and
// no state ever: it is a plain subscription. All watches of a client share the
// heartbeats. One that hears nothing for [FollowOptions.Silence] asks, tells
// [FollowOptions.Notify] that it is stale if there is no answer, and asks again
// until there is one.
//
// A slow consumer is bounded by [FollowOptions.MaxPending] and MaxPendingBytes.
// Beyond, events are dropped, and fetched in pages once it goes on.
//
// # Memory
//
// Decoded values are copies, but for that of a command without headers: it shares
// the memory of the body, to which nobody may write any more. Decoded keys share the
// memory of the subject, which is a string and can't change. A request without headers
// decodes without an allocation; an empty token in its key needs some.
//
// An [Encoder] owns the message that it returns, and the strings in it, and uses their
// memory again for the next one: publish it first, which copies it, then encode the
// next.
package bus
