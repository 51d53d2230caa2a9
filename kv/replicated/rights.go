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
// only gets no answer. The caller calls release in the end.
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
// store can do without: to ask JetStream and to get its answers, and to append to the
// log. Nothing but the text says which subject it is about.
func (s *Store) needs(err error) bool {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return false
	}
	inboxes := s.appended.inbox[:strings.LastIndexByte(s.appended.inbox, '.')+1]
	for _, refused := range []string{
		`Publish to "$JS.API.`, `Publish to "$KVBUS.`,
		"Subscription to " + strings.TrimSuffix(strconv.Quote(inboxes), `"`),
	} {
		if strings.Contains(err.Error(), refused) {
			return true
		}
	}
	return false
}
