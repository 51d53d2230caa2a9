// Package kv is the contract of a kvbus store: keys, entries, commands,
// events, errors, and the [Store] that ties them together.
//
// # Consistency
//
// A store has one revision counter. Every mutation raises it by exactly one
// and makes exactly one [Event] that carries the new revision. Commands take
// effect one after the other; a read that starts after a command returned
// sees that command or a later state, unless it asks for [Eventual].
//
// # Time
//
// A deadline is a point in time with nanoseconds. An entry whose deadline has
// passed is never returned by a read, never counted by a quota and never met
// by an expectation; its removal is a mutation with an event of its own, [EventExpire],
// which comes shortly after the deadline without anybody asking.
//
// # Values
//
// Keys and values are Go strings. A value is any sequence of bytes, text or
// not; because a string can't be changed, what goes in and what comes out is
// shared without copies and nobody can alter it behind the store's back.
//
// # Repeats
//
// A command that was not answered may or may not have taken effect. One with a
// RequestID can be given again: it takes effect once, and is answered as the
// first time, for as long as the [Limits] say.
//
// # Slow watchers
//
// A watcher never holds up a store. One that falls behind the store's ring of
// recent events is told how many revisions it missed by a [LagError], and goes
// on from the oldest event that is still held.
//
// # Use
//
// A [Store] is small, so that it is easy to build one. [Handle] puts a
// comfortable face on any of them:
//
//	h := kv.Of(store)
//	rev, err := h.Set(ctx, "color", "blue", kv.WithTTL(time.Minute))
package kv
