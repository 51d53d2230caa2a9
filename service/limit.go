package service

import "kvbus/bus"

// headerRoom is what a message may need beside a value: the headers of an
// entry in a stream of replies, with the longest key and trace context.
const headerRoom = 4 << 10

// keysHeaderRoom is what a list of keys may need beside them: its headers, with the
// longest cursor.
const keysHeaderRoom = 2 << 10

// MaxPayload returns the max_payload that a server needs for values of up to
// size bytes in every request and answer: a compare-and-swap carries two.
func MaxPayload(size int) int { return 2*size + headerRoom }

// MaxControlLine is the max_control_line that a server needs, for the longest key on the
// longest prefix with the longest reply subject, and the sizes of the largest message.
const MaxControlLine = bus.MaxPrefixLength + len(".events.") + bus.MaxKeySubjectLength + len(" ") + bus.MaxReplyLength + 2*len(" 2147483647")

// busLimit is the size of the largest value that a message can carry on this
// connection, in bytes. A compare-and-swap by value carries two, and may have room
// for less.
func (s *Service) busLimit() int64 { return max(0, s.nc.MaxPayload()-headerRoom) }

// effectiveLimit is the size of the largest value that bus and store both take,
// where the store takes so many bytes; 0 means any number.
func (s *Service) effectiveLimit(store int64) int64 {
	if store == 0 {
		return s.busLimit()
	}
	return min(s.busLimit(), store)
}

// tellLimit says in the log how large values may be, where the server makes that
// another size than it was.
func (s *Service) tellLimit() {
	configured := s.described.Limits.MaxValueSize
	effective := s.effectiveLimit(configured)
	if s.told.Swap(effective) == effective {
		return
	}
	attrs := []any{"max_value_size", effective, "configured", configured, "max_payload", s.nc.MaxPayload()}
	if effective == configured {
		s.logger.Info("the server carries values of the configured size", attrs...)
	} else {
		s.logger.Warn("the server's max_payload lowers the limit on values", attrs...)
	}
}
