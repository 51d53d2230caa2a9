// Package recipe is what microservices build on a store: a lock, the election of
// a leader, a rate limiter, and a local copy of some of the keys. Each works on
// any [kv.Store], but for the copy, which needs the client of package bus.
//
// # Locks
//
// [Acquire] creates the key with a TTL and a value that nobody else writes, and
// renews it at every third of the TTL, where that value is still there. So a
// renewal, whenever it comes, can neither revive a lock that is over nor prolong
// that of another; [Lock.Unlock] removes the key at a revision that is known to be
// the holder's. The holder learns by [Lock.Lost] that its time is over, by its own
// monotonic clock, counted from before the request and a hundredth early, whether
// or not anything can be reached. Those who wait watch the key, which takes next to
// no requests.
//
// What a lock promises is that no two hold it at the same time, as long as the
// clocks of the holder and of the store differ in speed by less than a hundredth.
// It does not promise that only its holder acts. A process may be stopped, by the
// scheduler, a garbage collection or a suspended machine, between its look at the
// lock and the write that the lock is to protect; when it goes on the lock may be
// another's, and neither a lock nor a shorter TTL can hinder the write. What can is
// the thing that is written to: hand it [Lock.Token] with each write, and have it
// refuse a token that is lower than one that it has seen. For keys of the same
// store a write at an expected revision does as much. Where the lock only saves
// double work, no token is needed.
//
// The time of a replicated store is that of the JetStream server that leads its log,
// so the clocks of these servers must agree. A failover to one whose clock is ahead
// moves the time on by the difference, and a lock may end early by as much, before
// its holder knows; the token protects then, too.
//
// The lock is as durable as the store. One in memory forgets the lock when its
// worker restarts, and its revisions, and so the tokens, begin anew; after a loss
// of power the same may happen on a single node that does not force its log to the
// disk with each write. A lock that must outlast that belongs on such a node, or
// on three.
//
// A lock is not fair, can't be taken twice by its holder, and costs each of those
// who wait a request when it becomes free; hundreds of them should not wait for
// one. A TTL has to outlast what the service needs for a failover, or holders lose
// their locks by it. Whoever may write the key can take the lock away.
//
// # Elections
//
// [Campaign] is a lock whose value tells the others who leads; [Observe] shows
// them. All that is said of locks holds: for a moment there may be one who still
// thinks that it leads, and [Leadership.Term] is what tells the two apart.
//
// # Rate limits
//
// A [Limiter] counts in fixed windows, each begun by its first use, at one request
// for each. Around the end of a window up to twice the limit may pass in a short
// time. The count is exact over all who share the store, as long as the store
// keeps it.
//
// # Mirrors
//
// A [Mirror] has all keys of a prefix or a filter in this process, and a watch
// keeps it fresh: reading it is a look-up that waits for nobody. Each key goes
// from one of its states to the next, and none is left out for good; but what the
// mirror shows is of a moment ago, and two keys that are read one after the other
// may be of different moments. Who has written waits for the revision of the write
// with [Mirror.WaitFor] before reading it.
//
// A mirror that can't be kept fresh goes on to show what it knew, and says so by
// [Mirror.Status] and the Notify of its options; [Mirror.Read] then asks the
// store. One that lost events, or can't tell that it did not
// ([bus.NoticeUnaudited]), is filled anew, beside the old one, and so takes
// twice the memory for a while. To a mirror of some of the keys that happens
// again and again where these change more than a thousand times a second, or
// where the store does not hold its events for the AuditInterval. One that would
// be larger than its options allow ends with [ErrMirrorFull], and shows nothing
// rather than a part.
package recipe
