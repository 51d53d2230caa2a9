// Package e2e tests the built thing: the kvbus binary as a process of its own,
// used through the real nats command and nats.go, with its own server or with
// nats-server processes beside it. It also runs the examples of the
// documentation and compares what they print with what is written there.
//
// # Tools
//
// The nats command and nats-server come from tools.mod, so that what they
// depend on stays out of the module. The first run builds them, which takes
// most of a minute; then Go's build cache has them. To use one by hand, from
// the root of the module:
//
//	go tool -modfile=e2e/tools.mod nats --help
//
// The examples in other languages need Node with npm, and Python. Where these
// are missing, or npm can't get the packages, their tests are skipped.
//
// kvbus itself is built at the start of each run, with the race detector where
// the tests are.
//
// # Rules
//
// A test starts what it needs on free ports of the loopback interface. Each
// process is stopped by its handle and waited for. A test waits for a condition
// and at most for [patience]; when it fails, the output of its processes is in
// its log.
package e2e

import "time"

// patience bounds every wait. It is far beyond what anything here takes, also
// on a slow machine.
const patience = 30 * time.Second
