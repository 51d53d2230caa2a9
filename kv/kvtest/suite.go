package kvtest

import (
	"testing"
	"time"

	"kvbus/kv"
)

// An Opener makes a fresh, empty store. The suite closes it; what else there is
// to tear down belongs in t.Cleanup. It is called from several goroutines.
type Opener func(t testing.TB, opts Options) kv.Store

// Options are what a check needs of its store.
type Options struct {
	// Limits of the store, exactly; a zero field is no limit.
	Limits kv.Limits
	// ReplayEvents is the number of recent events that the store holds, exactly;
	// zero means the store's default, at least 4,096.
	ReplayEvents int
}

// Config says how to run the suite on a store, and what that store can't do.
type Config struct {
	// Open makes the store of one check.
	Open Opener
	// NoSetLimits and NoSweep say that the store answers [kv.OpSetLimits] and
	// [kv.OpSweep] with [errors.ErrUnsupported].
	NoSetLimits, NoSweep bool
	// Redelivers says that a watch may yield an event again after it, or a later
	// one, was yielded.
	Redelivers bool
	// Buffers says that a watch takes in events that nobody asks it for yet, so
	// that a slow consumer may have lost none.
	Buffers bool
	// ExpiryBound is how long after its deadline an entry expires, by the time
	// of the event, on a machine that is not overloaded; 10ms if zero.
	ExpiryBound time.Duration
	// Patience is how long the suite waits for what must come; 30s if zero.
	Patience time.Duration
}

// Run checks that the stores which cfg.Open makes keep the contract of
// [kv.Store].
func Run(t *testing.T, cfg Config) {
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.checks {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(newEnv(t, cfg))
				})
			}
		})
	}
}

// A check is one subtest. It is written against [testing.TB], so that the tests
// of the suite can have it fail without failing themselves.
type check struct {
	name string
	run  func(e *env)
}

type group struct {
	name   string
	checks []check
}

func groups() []group {
	return []group{
		{"keys", keyChecks()},
		{"values", valueChecks()},
		{"set", setChecks()},
		{"delete", deleteChecks()},
		{"touch", touchChecks()},
		{"increment", incrementChecks()},
		{"cas", casChecks()},
		{"ttl", ttlChecks()},
		{"keep-ttl", keepTTLChecks()},
		{"scan", scanChecks()},
		{"clear", clearChecks()},
		{"limits", limitChecks()},
		{"repeats", repeatChecks()},
		{"revisions", revisionChecks()},
		{"replay", replayChecks()},
		{"watch", watchChecks()},
		{"concurrency", concurrencyChecks()},
		{"lifecycle", lifecycleChecks()},
	}
}
