package bus

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// ErrForbidden is the [kv.ErrUnavailable] of a request that the permissions of
// the connection do not let through. Nothing was done.
var ErrForbidden = fmt.Errorf("%w: forbidden", kv.ErrUnavailable)

// ErrNoInbox: the permissions of the connection do not let answers through; see
// [nats.CustomInboxPrefix]. A read that ends with it ends with [ErrForbidden] as well.
var ErrNoInbox = errors.New("the answer can't be received: its subject is forbidden")

func forbidden(err error) error { return fmt.Errorf("%w: %w", ErrForbidden, err) }

// What a server may forbid.
const (
	ActionPublish      = "Publish"
	ActionSubscription = "Subscription"
)

// PermissionViolation takes apart the error by which a server tells that it
// forbids an action on a subject, and returns false for any other. Nothing but its
// text says which.
func PermissionViolation(err error) (action, subject string, ok bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", "", false
	}
	text := err.Error()
	start := strings.IndexByte(text, '"')
	if start < 0 {
		return "", "", false
	}
	quoted, err := strconv.QuotedPrefix(text[start:])
	if err != nil {
		return "", "", false
	}
	if subject, err = strconv.Unquote(quoted); err != nil {
		return "", "", false
	}
	switch {
	case strings.Contains(text[:start], ActionSubscription):
		return ActionSubscription, subject, true
	case strings.Contains(text[:start], ActionPublish):
		return ActionPublish, subject, true
	default:
		return "", "", false
	}
}
