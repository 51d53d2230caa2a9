package replicated_test

import (
	"testing"
	"time"

	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/kvtest"
	"kvbus/kv/replicated"
)

// Clients of several workers that share a log see one store.
func TestLinearizable(t *testing.T) {
	s := startServer(t)
	var stores []kv.Store
	for range 3 {
		stores = append(stores, open(t, s, replicated.Options{}))
	}
	kvtest.CheckLinearizable(t, stores, kvtest.LinearizabilityOptions{Clients: 6, Keys: 4, Operations: 500})
}

// So they do while the workers' connections break again and again, and batches
// are appended more than once.
func TestLinearizableOverBrokenConnections(t *testing.T) {
	s := startServer(t)
	var (
		stores  []kv.Store
		proxies []*bustest.Proxy
	)
	for range 3 {
		store, proxy := openThrough(t, s, replicated.Options{Timeout: patience})
		stores, proxies = append(stores, store), append(proxies, proxy)
	}
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(30 * time.Millisecond)
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-ticker.C:
				proxies[i%len(proxies)].Cut()
			case <-done:
				return
			}
		}
	}()
	kvtest.CheckLinearizable(t, stores, kvtest.LinearizabilityOptions{Clients: 6, Keys: 4, Operations: 300})
	close(done)
	<-stopped
}
