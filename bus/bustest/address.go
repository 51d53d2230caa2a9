package bustest

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

// freePorts counts the ports that were tried; no two tests try the same one.
var freePorts atomic.Uint32

// FreeAddress returns a loopback address that nobody listens on now, for those who
// must know it before they listen, or again later. Its port is below those that
// systems give to who asks for any. Which comes first depends on the process: another
// one may run the same tests.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	const first, count = 20_000, 12_000
	for range 100 {
		port := first + (uint32(os.Getpid())*101+freePorts.Add(1))%count
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	tb.Fatal("no free port")
	return ""
}
