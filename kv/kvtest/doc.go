// Package kvtest checks that a store keeps the contract of package kv.
//
// # Use
//
// Whoever builds a [kv.Store] runs the suite on it in a test:
//
//	func TestConformance(t *testing.T) {
//		kvtest.Run(t, kvtest.Config{
//			Open: func(t testing.TB, opts kvtest.Options) kv.Store {
//				return mystore.New(opts.Limits, opts.ReplayEvents)
//			},
//		})
//	}
//
// Each check is a subtest with a store of its own, so a failing one can be run
// alone. What a store can't do by its nature is said in [Config] and nowhere
// else: then the suite checks that it says so itself, with
// [errors.ErrUnsupported].
//
// # Time
//
// The suite runs on the wall clock. No check sleeps and hopes: each wait is for
// a condition and has an end, [Config.Patience]. How late an expiry was is read
// off its event, not off the scheduling of the test.
//
// # The reference
//
// [Model] is the same contract as a program that is too simple to be wrong and
// too slow to be used. Property tests compare with it, and [ModelStore] is a
// store made of it: that it passes shows that the suite can be passed. That the
// suite can fail is shown by its own tests, which run it on stores with planted
// bugs.
package kvtest
