package bus

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"kvbus/kv"
)

// DefaultPrefix is the prefix of all subjects where none is set.
const DefaultPrefix = "kv"

// MaxPrefixLength is the length of the longest prefix, in bytes. With it the
// longest key still fits the protocol line of a NATS server, 4096 bytes by
// default.
const MaxPrefixLength = 256

// MaxKeySubjectLength is the length of the longest key in a subject, in bytes: a key of
// dots alone has as many empty tokens as dots, and one more.
const MaxKeySubjectLength = 2*kv.MaxKeyLength + 1

// MaxReplyLength is the length of the longest reply subject, in bytes. Beside it the
// protocol line of an answer has the sizes of the message, and may be longer than that of
// the request. nats-server ends a connection that sends a line over max_control_line,
// by default 4096 bytes and in earlier versions 1024, and nats.go makes no other one then.
const MaxReplyLength = 512

// eventsToken is where an operation has its name in the subject of an event.
const eventsToken = "events"

// Subjects maps operations and keys to subjects and back, under one prefix.
// It is a small value; make it with [NewSubjects].
//
// A key is the rest of the subject after the name of the operation. NATS has no
// empty token, so the empty tokens of a key are written as [kv.EmptyToken]
// there; every key has exactly one subject, and only that one decodes to it.
// Prefixes of keys are written in the same way. The empty prefix is the subject
// that ends with the name of the operation.
type Subjects struct {
	prefix string
}

// NewSubjects returns the subjects under prefix, [DefaultPrefix] if it is
// empty. A prefix may have several tokens. It fails with
// [kv.ErrInvalidArgument] if one of them is empty, starts with $, or has a
// wildcard, white space, a control character or "{{", and if the first is _INBOX.
func NewSubjects(prefix string) (Subjects, error) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	if len(prefix) > MaxPrefixLength {
		return Subjects{}, fmt.Errorf("%w: subject prefix of %d bytes, the longest has %d", kv.ErrInvalidArgument, len(prefix), MaxPrefixLength)
	}
	if !utf8.ValidString(prefix) {
		return Subjects{}, fmt.Errorf("%w: subject prefix %q is not UTF-8", kv.ErrInvalidArgument, prefix)
	}
	if first, _, _ := strings.Cut(prefix, "."); first == "_INBOX" {
		return Subjects{}, fmt.Errorf("%w: subject prefix %q begins with _INBOX, where answers come", kv.ErrInvalidArgument, prefix)
	}
	for token := range strings.SplitSeq(prefix, ".") {
		switch {
		case token == "":
			return Subjects{}, fmt.Errorf("%w: subject prefix %q has an empty token", kv.ErrInvalidArgument, prefix)
		case token[0] == '$':
			return Subjects{}, fmt.Errorf("%w: subject prefix %q has a token that starts with $, which NATS keeps for itself", kv.ErrInvalidArgument, prefix)
		case strings.ContainsAny(token, "*>"):
			return Subjects{}, fmt.Errorf("%w: subject prefix %q has a wildcard", kv.ErrInvalidArgument, prefix)
		case strings.Contains(token, "{{"):
			return Subjects{}, fmt.Errorf("%w: subject prefix %q has {{, with which the functions of NATS's subject mappings begin", kv.ErrInvalidArgument, prefix)
		case strings.ContainsFunc(token, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
			return Subjects{}, fmt.Errorf("%w: subject prefix %q has white space or a control character", kv.ErrInvalidArgument, prefix)
		}
	}
	return Subjects{prefix}, nil
}

// Relay returns the subjects on which a worker takes requests that others hand on
// to it. They are the same ones below "$KVBUS", with a token that no prefix has, so
// that they are nobody's log.
func (s Subjects) Relay() Subjects { return Subjects{"$KVBUS.$relay." + s.prefix} }

// Unused returns a subject below the prefix that is nobody's: only who listens to
// more than requests and events hears it.
func (s Subjects) Unused() string { return s.prefix + ".-" }

// Rebase returns a subject under s as the same one under other.
func (s Subjects) Rebase(subject string, other Subjects) string {
	return other.prefix + strings.TrimPrefix(subject, s.prefix)
}

// ValidateReply returns a [kv.ErrInvalidArgument] for the reply subject of a request
// that must not be answered there: one of these subjects, or one that is the server's
// or a worker's own, which begins with "$", or one longer than [MaxReplyLength]. NATS
// does not ask whether those who name it may publish there, and a worker may. Empty is
// valid.
func (s Subjects) ValidateReply(reply string) error {
	if len(reply) > MaxReplyLength {
		return fmt.Errorf("%w: reply subject of %d bytes, the longest has %d", kv.ErrInvalidArgument, len(reply), MaxReplyLength)
	}
	if rest, own := strings.CutPrefix(reply, s.prefix); own && strings.HasPrefix(rest, ".") || strings.HasPrefix(reply, "$") {
		return fmt.Errorf("%w: reply subject %q; none may begin with %q or with \"$\"", kv.ErrInvalidArgument, clip(reply), s.prefix+".")
	}
	return nil
}

// RequestPatterns returns the subjects of all requests.
func (s Subjects) RequestPatterns() []string {
	var patterns []string
	for _, op := range Ops() {
		patterns = append(patterns, s.Patterns(op)...)
	}
	return patterns
}

// Prefix returns the prefix.
func (s Subjects) Prefix() string { return s.prefix }

// Patterns returns the subjects that a service subscribes to for op: one, or
// two where a prefix of keys may follow.
func (s Subjects) Patterns(op Op) []string {
	base := s.prefix + "." + op.String()
	switch op.Scope() {
	case ScopeKey:
		return []string{base + ".>"}
	case ScopePrefix:
		return []string{base, base + ".>"}
	default:
		return []string{base}
	}
}

// Subject returns the subject of a request for op. key is the key, or the
// prefix of keys, or ignored, as op's [Scope] says. It fails with
// [kv.ErrInvalidKey].
func (s Subjects) Subject(op Op, key string) (string, error) {
	base := s.prefix + "." + op.String()
	switch op.Scope() {
	case ScopeKey:
		if err := kv.ValidateKey(key); err != nil {
			return "", err
		}
	case ScopePrefix:
		if key == "" {
			return base, nil
		}
		if err := kv.ValidatePrefix(key); err != nil {
			return "", err
		}
	default:
		return base, nil
	}
	return string(appendTokens(append([]byte(base), '.'), key)), nil
}

// Key is the inverse of [Subjects.Subject]: it returns the key, or the prefix
// of keys, in the subject of a request for op. It fails with
// [kv.ErrInvalidKey] if the subject is not the one that Subject gives.
func (s Subjects) Key(op Op, subject string) (string, error) {
	tail, more, ok := s.tail(op.String(), subject)
	if !ok {
		return "", fmt.Errorf("%w: subject %q is none of %v", kv.ErrInvalidKey, clip(subject), s.Patterns(op))
	}
	switch op.Scope() {
	case ScopeKey:
		if !more {
			return "", fmt.Errorf("%w: subject %q ends before the key", kv.ErrInvalidKey, clip(subject))
		}
	case ScopePrefix:
		if !more {
			return "", nil
		}
	default:
		if more {
			return "", fmt.Errorf("%w: subject %q goes on after %v", kv.ErrInvalidKey, clip(subject), op)
		}
		return "", nil
	}
	return parseTokens(tail)
}

// EventSubject returns the subject on which the events of key are published.
func (s Subjects) EventSubject(key string) string {
	return string(s.appendEvent(nil, key))
}

func (s Subjects) appendEvent(dst []byte, key string) []byte {
	dst = append(dst, s.prefix...)
	dst = append(dst, "."+eventsToken+"."...)
	return appendTokens(dst, key)
}

// EventPattern returns the subject to subscribe to for the events of the keys
// that filter selects.
func (s Subjects) EventPattern(filter kv.Filter) string {
	return s.prefix + "." + eventsToken + "." + filter.String()
}

// EventKey returns the key of an event that came on subject. It fails with
// [kv.ErrInvalidKey].
func (s Subjects) EventKey(subject string) (string, error) {
	tail, more, ok := s.tail(eventsToken, subject)
	if !ok || !more {
		return "", fmt.Errorf("%w: subject %q is none of %s", kv.ErrInvalidKey, clip(subject), s.EventPattern(kv.Filter{}))
	}
	return parseTokens(tail)
}

// tail splits off the prefix and the name. more says whether a dot follows
// them, and tail what comes after it.
func (s Subjects) tail(name, subject string) (tail string, more, ok bool) {
	rest, ok := strings.CutPrefix(subject, s.prefix)
	if !ok || rest == "" || rest[0] != '.' {
		return "", false, false
	}
	rest, ok = strings.CutPrefix(rest[1:], name)
	if !ok || rest == "" {
		return "", false, ok
	}
	if rest[0] != '.' {
		return "", false, false
	}
	return rest[1:], true, true
}

// appendTokens appends a key, or a prefix of keys that is not empty, as the
// tokens of a subject.
func appendTokens(dst []byte, key string) []byte {
	if !hasEmptyToken(key) {
		return append(dst, key...)
	}
	for more := true; more; {
		var token string
		if token, key, more = strings.Cut(key, "."); token == "" {
			token = kv.EmptyToken
		}
		dst = append(dst, token...)
		if more {
			dst = append(dst, '.')
		}
	}
	return dst
}

// parseTokens is the inverse of appendTokens. It takes nothing that
// appendTokens does not give, and allocates only where there is an empty token.
func parseTokens(tail string) (string, error) {
	if len(tail) > MaxKeySubjectLength {
		return "", fmt.Errorf("%w: %d bytes of subject, the longest key has %d", kv.ErrInvalidKey, len(tail), kv.MaxKeyLength)
	}
	if hasEmptyToken(tail) {
		return "", fmt.Errorf("%w: %q has an empty token in a subject; write it as %s", kv.ErrInvalidKey, clip(tail), kv.EmptyToken)
	}
	key := tail
	if strings.Contains(tail, kv.EmptyToken) {
		b := make([]byte, 0, len(tail))
		for i, token := range strings.Split(tail, ".") {
			if i > 0 {
				b = append(b, '.')
			}
			if token == kv.EmptyToken {
				continue
			}
			if strings.Contains(token, kv.EmptyToken) {
				return "", fmt.Errorf("%w: %q has %s within a token; it stands for an empty one", kv.ErrInvalidKey, clip(tail), kv.EmptyToken)
			}
			b = append(b, token...)
		}
		if key = string(b); key == "" {
			return "", fmt.Errorf("%w: %s alone stands for no key, and an empty prefix is written as no token", kv.ErrInvalidKey, kv.EmptyToken)
		}
	}
	if err := kv.ValidateKey(key); err != nil {
		return "", err
	}
	return key, nil
}

// hasEmptyToken reports whether one of the tokens between the dots of s, which
// is not empty itself, is empty.
func hasEmptyToken(s string) bool {
	return s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..")
}

// clip keeps a quoted input short enough for an error.
func clip(s string) string {
	const longest = 80
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "…"
}
