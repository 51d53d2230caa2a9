package e2e

import (
	"os"
	"strings"
	"testing"
)

// A server that carries less than the store takes is told of, again when it comes
// back and carries another size.
func TestLoweredLimitIsLogged(t *testing.T) {
	t.Parallel()
	const message = "the server's max_payload lowers the limit on values"
	s := startServer(t, "max_payload: 65536")
	w := serveOn(t, s.url)
	lowered := func(nth int, effective, maxPayload float64) {
		t.Helper()
		r := w.awaitLogs(t, message, nth)[nth-1]
		if r["max_value_size"] != effective || r["configured"] != float64(1<<20) || r["max_payload"] != maxPayload {
			t.Errorf("the log has %v", r)
		}
	}
	lowered(1, 60<<10, 64<<10)

	s.kill()
	config, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	smaller := strings.Replace(string(config), "65536", "32768", 1)
	if err := os.WriteFile(s.config, []byte(smaller), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	lowered(2, 28<<10, 32<<10)
	w.terminate(t)
}
