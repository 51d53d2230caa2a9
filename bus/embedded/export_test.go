package embedded

import (
	"log/slog"
	"testing"
	"time"
)

// Repeats returns what decides how a line of nats-server's log is logged.
func Repeats() func(level slog.Level, message string, now time.Time) (as slog.Level, show bool, omitted int) {
	return new(repeats).level
}

// EndJetStream does what nats-server itself does when it can't write to its disk.
func (s *Server) EndJetStream(t *testing.T) {
	t.Helper()
	if err := s.ns.ShutdownJetStream(); err != nil {
		t.Fatal(err)
	}
}

// Headcount is what the server says of whom JetStream counts.
func (s *Server) Headcount() (text string, beyondRoutes bool) {
	h := s.headcount()
	return h.String(), h.beyondRoutes()
}

// Peer is the ID by which JetStream counts the server.
func (s *Server) Peer() string { return s.ns.Node() }
