package bus

import (
	"fmt"
	"math/bits"
	"net/textproto"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kvbus/kv"
)

// The headers of requests. Names are matched without regard to case.
const (
	HeaderTTL              = "KV-TTL"
	HeaderKeepTTL          = "KV-Keep-TTL"
	HeaderExpected         = "KV-Expected"
	HeaderExpectedLength   = "KV-Expected-Length"
	HeaderExpectedRevision = "KV-Expected-Revision"
	HeaderLimit            = "KV-Limit"
	HeaderCursor           = "KV-Cursor" // of replies too
	HeaderFilter           = "KV-Filter"
	HeaderKeysOnly         = "KV-Keys-Only"
	HeaderFromRevision     = "KV-From-Revision"
	HeaderConsistency      = "KV-Consistency"
	HeaderMinRevision      = "KV-Min-Revision"
	HeaderRequestID        = "KV-Request-Id"
	HeaderTraceParent      = "traceparent" // of events too
	HeaderTraceState       = "tracestate"  // of events too
)

// The headers of replies and events.
const (
	HeaderRevision         = "KV-Revision"
	HeaderExpiresAt        = "KV-Expires-At"
	HeaderCount            = "KV-Count"
	HeaderKey              = "KV-Key"
	HeaderEnd              = "KV-End"
	HeaderOperation        = "KV-Operation"
	HeaderPreviousRevision = "KV-Previous-Revision"
	HeaderTime             = "KV-Time"
	HeaderError            = "KV-Error"
	HeaderServiceError     = micro.ErrorHeader
	HeaderServiceErrorCode = micro.ErrorCodeHeader
)

// headerStatus is how NATS itself answers, as when nobody listens.
const headerStatus = "Status"

// A headerID is an index into headerNames.
type headerID uint8

const (
	idTTL headerID = iota
	idKeepTTL
	idExpected
	idExpectedLength
	idExpectedRevision
	idLimit
	idCursor
	idFilter
	idKeysOnly
	idFromRevision
	idConsistency
	idMinRevision
	idRequestID
	idTraceParent
	idTraceState
	idRevision
	idExpiresAt
	idCount
	idKey
	idEnd
	idOperation
	idPreviousRevision
	idTime
	idError
	idServiceError
	idServiceErrorCode
	idStatus
	headerCount
)

var headerNames = [headerCount]string{
	idTTL: HeaderTTL, idKeepTTL: HeaderKeepTTL, idExpected: HeaderExpected,
	idExpectedLength: HeaderExpectedLength, idExpectedRevision: HeaderExpectedRevision,
	idLimit: HeaderLimit, idCursor: HeaderCursor, idFilter: HeaderFilter, idKeysOnly: HeaderKeysOnly,
	idFromRevision: HeaderFromRevision, idConsistency: HeaderConsistency,
	idMinRevision: HeaderMinRevision, idRequestID: HeaderRequestID, idTraceParent: HeaderTraceParent, idTraceState: HeaderTraceState,
	idRevision: HeaderRevision, idExpiresAt: HeaderExpiresAt, idCount: HeaderCount, idKey: HeaderKey,
	idEnd: HeaderEnd, idOperation: HeaderOperation, idPreviousRevision: HeaderPreviousRevision,
	idTime: HeaderTime, idError: HeaderError, idServiceError: HeaderServiceError,
	idServiceErrorCode: HeaderServiceErrorCode, idStatus: headerStatus,
}

func (id headerID) String() string { return headerNames[id] }

// A headerSet is a set of headers, a bit each.
type headerSet uint32

func (s headerSet) has(id headerID) bool { return s&(1<<id) != 0 }

// headersOfLength has the headers whose names have that many bytes.
var headersOfLength = func() (ids [][]headerID) {
	for id, name := range headerNames {
		for len(ids) <= len(name) {
			ids = append(ids, nil)
		}
		ids[len(name)] = append(ids[len(name)], headerID(id))
	}
	return ids
}()

// headerIDOf finds a header that the protocol knows. A name of another length
// is never equal, which keeps Unicode folding (the Kelvin sign for a K) out.
func headerIDOf(name string) (headerID, bool) {
	if len(name) >= len(headersOfLength) {
		return 0, false
	}
	ids := headersOfLength[len(name)]
	for _, id := range ids {
		if headerNames[id] == name {
			return id, true
		}
	}
	for _, id := range ids {
		if strings.EqualFold(headerNames[id], name) {
			return id, true
		}
	}
	return 0, false
}

// headers are the known headers of one message. The zero value has none.
type headers struct {
	present headerSet
	// twice are those given more than once, under one spelling or several.
	twice headerSet
	// spaced are those with a space or a tab before or after the name. To nats.go they
	// are other names; a sender who typed one means the header all the same.
	spaced headerSet
	values [headerCount]string
}

// RelayHeader returns the headers of a request in a form that can be sent once more:
// the protocol's, as what else may be there is ignored and may be no header to nats.go.
// It fails as a decoder does for a header that op does not take, and with
// [kv.ErrUnavailable] where KV-Expected has outer spaces or a carriage return, which
// nats.go would change.
func RelayHeader(op Op, h nats.Header) (nats.Header, error) {
	var hs headers
	if err := hs.readRequest(op, h); err != nil {
		return nil, err
	}
	known := make(nats.Header, len(h))
	for name, values := range h {
		id, ok := headerIDOf(name)
		if !ok {
			continue
		}
		if id == idExpected && slices.ContainsFunc(values, func(v string) bool { return v != textproto.TrimString(v) || strings.Contains(v, "\r") }) {
			return nil, fmt.Errorf("%w: %s has spaces around its value or a carriage return in it, which would be lost on the way to another worker", kv.ErrUnavailable, HeaderExpected)
		}
		known[name] = values
	}
	return known, nil
}

// read takes the known headers out of h, in one pass whatever their case.
func (hs *headers) read(h nats.Header) {
	for name, values := range h {
		id, known := headerIDOf(name)
		if !known {
			if id, known = headerIDOf(strings.Trim(name, " \t")); known {
				hs.spaced |= 1 << id
			}
			continue
		}
		if len(values) == 0 {
			continue
		}
		if len(values) > 1 || hs.present.has(id) {
			hs.twice |= 1 << id
		}
		hs.present |= 1 << id
		hs.values[id] = values[0]
	}
}

// readRequest is read, and the check of what op makes of each header.
func (hs *headers) readRequest(op Op, h nats.Header) error {
	if len(h) == 0 {
		return nil
	}
	hs.read(h)
	spec := op.spec()
	// A trace that can't be read is no trace: tracing never fails a request.
	if spaced := hs.spaced & (spec.honoured | spec.refused) &^ traceHeaders; spaced != 0 {
		return fmt.Errorf("%w: header %v has a space or a tab beside its name", kv.ErrInvalidArgument, spaced.first())
	}
	if refused := hs.present & spec.refused; refused != 0 {
		return fmt.Errorf("%w: header %v has no effect on %v, and the request may not mean to go on without it",
			kv.ErrInvalidArgument, refused.first(), op)
	}
	if twice := hs.twice & spec.honoured &^ traceHeaders; twice != 0 {
		return fmt.Errorf("%w: header %v is given more than once", kv.ErrInvalidArgument, twice.first())
	}
	hs.present &= spec.honoured
	return nil
}

// first returns the first header of a set that is not empty.
func (s headerSet) first() headerID { return headerID(bits.TrailingZeros32(uint32(s))) }

// text returns a header as it came.
func (hs *headers) text(id headerID) (string, bool) {
	return hs.values[id], hs.present.has(id)
}

// token returns a header without the spaces around it. Transports drop some of
// them, so that they mean nothing in what is not free text.
func (hs *headers) token(id headerID) (string, bool) {
	return strings.Trim(hs.values[id], " \t"), hs.present.has(id)
}
