package embedded

import "testing"

// EndJetStream does what nats-server itself does when it can't write to its disk.
func (s *Server) EndJetStream(t *testing.T) {
	t.Helper()
	if err := s.ns.ShutdownJetStream(); err != nil {
		t.Fatal(err)
	}
}
