// Package bus is the wire protocol of kvbus as code: the subjects, the headers,
// the bodies and the errors that PROTOCOL.md in this folder describes, in both
// directions. A service decodes requests and encodes replies and events; a
// client encodes requests and decodes replies and events.
//
// # What it is not
//
// Nothing here opens a connection, subscribes or keeps state. The package needs
// nats.go and the contract in [kvbus/kv], so that a service that only speaks
// the protocol stays small.
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
// # Memory
//
// Decoded values are copies. Decoded keys share the memory of the subject,
// which is a string and can't change. A request without headers decodes with
// one allocation, the copy of its body; an empty token in its key needs more.
//
// An [Encoder] owns the message that it returns and uses it again for the next
// one: publish it first, which copies it, then encode the next.
package bus
