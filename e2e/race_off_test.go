//go:build !race

package e2e

// raceDetector says that these tests, and so kvbus, are built with it.
const raceDetector = false
