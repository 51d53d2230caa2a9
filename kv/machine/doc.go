// Package machine is the deterministic state machine behind every kvbus store:
// all rules about keys, values, deadlines, quotas and revisions live here and
// nowhere else.
//
// A command and a time go in; a result comes out, and the events that the
// command made are in the ring. The machine reads no clock, draws no random
// number that could change an answer, starts no goroutine and does no I/O, so
// two machines that are fed the same commands at the same times are equal.
//
// # Time
//
// Times are Unix nanoseconds. The machine's time never goes backwards: a time
// before the last one counts as the last one. Before a command takes effect,
// every entry whose deadline is not after the command's time expires, in the
// order of deadlines and, among equal ones, of revisions.
//
// # Requests
//
// What came of a command with a request id is remembered, and is the answer to
// the same command with the same id: a [Request] each, which has no more of the
// command than two digests. They are forgotten in the order in which they came:
// those that [kv.Limits] leave no room for, and those whose age has been reached
// by the machine's time. So all machines that are fed the same remember the
// same. They are part of a [View], and so of what [Restore] takes.
//
// # Concurrency
//
// A machine has one owner at a time: all methods are to be called under the
// owner's lock, except [Machine.Revision] and the methods of a [View], which may
// run beside them, and beside each other, without one. [Shared] has the lock, and
// gets that take none: reads never wait for writers.
//
// # Cost
//
// Point operations don't depend on the number of keys: a hash table whose
// growth is spread over small segments, entries that stay where they are, and
// a deadline queue in which the usual renewal of a deadline touches nothing.
// Adding and removing keys costs the logarithm of their number, for the
// ordered index; pages and prefixes cost what they return. A [View] is taken in
// constant time. A remembered request takes about 130 bytes, and the digests of
// its command a microsecond and another for each 1.5 KiB of value.
//
// Memory is in proportion to what there is, not to what there was at most. A
// removal now and then copies what is left, as an addition does: of a segment,
// when it is merged, and of the deadlines, or the requests, when most are gone.
package machine
