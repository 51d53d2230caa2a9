package replicated

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// withRights returns a context that ends, with the cause, when the server refuses the
// user of the connection what a store needs. It tells that beside the request, which
// only gets no answer. The caller calls release in the end, and does not set the error
// handler of the connection meanwhile.
func (s *Store) withRights(ctx context.Context) (limited context.Context, release func()) {
	limited, end := context.WithCancelCause(ctx)
	others := s.nc.ErrorHandler()
	s.nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if s.needs(err) {
			end(fmt.Errorf("the user of this worker lacks a right that it needs: %w", err))
		}
		if others != nil {
			others(nc, sub, err)
		}
	})
	return limited, func() {
		s.nc.SetErrorHandler(others)
		end(nil)
	}
}

// needs reports whether an error of the connection is that the server refuses what no
// store can do without: to ask JetStream for its streams and to get the answers, and to
// append to the log. Nothing but the text says which subject it is about; others are of
// who else uses the connection, or of the questions to other workers.
func (s *Store) needs(err error) bool {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return false
	}
	if text := err.Error(); strings.Contains(text, `Publish to "$JS.API.`) {
		return strings.Contains(text, streamName(s.opts.Prefix))
	}
	inboxes := s.appended.inbox[:strings.LastIndexByte(s.appended.inbox, '.')+1]
	for _, refused := range []string{
		"Publish to " + strconv.Quote(s.appended.subject),
		"Publish to " + strconv.Quote(s.appended.marked),
		"Subscription to " + strings.TrimSuffix(strconv.Quote(inboxes), `"`),
	} {
		if strings.Contains(err.Error(), refused) {
			return true
		}
	}
	return false
}
