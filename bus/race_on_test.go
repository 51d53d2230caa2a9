//go:build race

package bus_test

// raceDetector says that these tests, and so kvbus, are built with it.
const raceDetector = true
