package kv

import (
	"log/slog"
	"sync/atomic"
)

// global is the one store that a process publishes for all its parts; the only
// state that this package holds.
var global atomic.Pointer[Handle]

// SetGlobal publishes store for the whole process, once: a second publication
// changes nothing, logs a warning and returns false.
func SetGlobal(store Store) bool {
	h := Of(store)
	if global.CompareAndSwap(nil, &h) {
		return true
	}
	slog.Warn("a store is published for this process already; the second one is ignored")
	return false
}

// Global returns the store that [SetGlobal] published, and false if none was.
func Global() (Handle, bool) {
	if h := global.Load(); h != nil {
		return *h, true
	}
	return Handle{}, false
}
