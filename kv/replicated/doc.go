// Package replicated is the durable store: the state machine fed by a log, which
// is a JetStream stream. Workers that share the log share the state; each holds
// all of it in memory.
//
// # Writes
//
// Commands that arrive while earlier ones are under way are gathered into one
// batch, and appended to the log as one message. Every worker reads the whole
// log in order and applies every batch; the one that appended it then answers.
// So what is answered is on as many disks as the log has replicas. A worker has one
// batch under way; after one that took half a millisecond or more the next one waits
// for those who were answered and come again, for as long as that and 20 ms at most,
// unless it is larger by half already.
//
// A batch that may have been lost is appended again. Its worker's id and number
// are in it, and a batch that is not the next of its worker is passed over, so
// each takes effect once and in order. A command whose batch was not seen in
// the log in time fails with [kv.ErrTimeout] if it may still take effect, and
// with [kv.ErrUnavailable] if it can't.
//
// # Records
//
// JetStream sends each record to all workers when it is stored (the stream's
// republication, on "$KVBUS.<prefix>.*.live"); a worker that misses one, which it
// sees by the sequences, asks any server of the log for it (direct get). No
// consumer is involved, so none is lost with the server that has it. Whoever may
// publish below "$KVBUS" may change the store: that is for workers alone.
//
// # Reads
//
// A linearizable read waits until a batch that was appended after it came is
// applied, and then reads what this worker has; all reads that wait share one
// batch. An eventual read waits for nothing.
//
// # Time
//
// A batch takes effect at the time that JetStream gave its message, never
// before the batch before it. A deadline without traffic is brought about by an
// empty batch, for which the workers take turns of a few milliseconds. Reads never
// return what has expired by their worker's own clock.
//
// # Events
//
// Each worker has the recent events. [Store.History] makes those before them
// anew, from a snapshot and the log after it, in a second state beside the one
// that is served. As long as events are not acknowledged on [Options.Cursor], no
// snapshot and no part of the log that this takes is removed.
//
// # Failure
//
// A record that can't be decoded is never passed over: the store stops, serves
// nothing from then on, and says why in [Store.Failed]. So it does where the log
// has lost what this worker has applied, as after the loss of power of its only
// server; one that was away meanwhile sees it by the time of its last record, for
// which it asks together with those after it. And so it does where the log was removed:
// JetStream says that there is none, and for a while nothing else. A JetStream that says
// nothing, or that it can't tell, is waited for.
package replicated
