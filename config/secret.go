package config

import (
	"net/url"
	"slices"
	"strings"
)

// mask stands where a secret is not shown.
const mask = "***"

// Secret is text that is shown only masked: its String and its marshalled form
// are "***", or empty where it is. Convert it to a string for the real text.
type Secret string

// String returns "***" for a secret that is set.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString keeps the secret out of %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps the secret out of logs, JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// URLs is a comma separated list of server URLs. Passwords and tokens in them
// are masked wherever it is shown; convert it to a string for the real text.
type URLs string

// The schemes of servers and of routes between them.
var (
	serverSchemes = []string{"nats", "tls", "ws", "wss"}
	routeSchemes  = []string{"nats", "nats-route", "tls"}
)

// List returns the servers one by one, with their secrets, each with the scheme
// nats where it has none. One that is missing between two commas is empty; what
// is empty has none.
func (u URLs) List() []string {
	if u == "" {
		return nil
	}
	list := strings.Split(string(u), ",")
	for i, server := range list {
		server = strings.TrimSpace(server)
		if server != "" && !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		list[i] = server
	}
	return list
}

// String returns the list with nats://user:***@host for a password, and
// nats://***@host for a token. A comma may be one of a password that was not
// escaped, so it ends a server only where a scheme follows, and none does where
// the list can't be parsed: rather too much is masked than a part of a secret
// shown.
func (u URLs) String() string {
	parses := !slices.ContainsFunc(u.List(), func(server string) bool {
		_, err := url.Parse(server)
		return err != nil
	})
	var servers []string
	for server := range strings.SplitSeq(string(u), ",") {
		if last := len(servers) - 1; last >= 0 && !(parses && hasScheme(server)) {
			servers[last] += "," + server
		} else {
			servers = append(servers, server)
		}
	}
	for i, server := range servers {
		servers[i] = maskURL(server)
	}
	return strings.Join(servers, ",")
}

// hasUser reports whether a server has a user, a password or a token.
func (u URLs) hasUser() bool {
	return slices.ContainsFunc(u.List(), func(server string) bool {
		parsed, err := url.Parse(server)
		return err == nil && parsed.User != nil
	})
}

func hasScheme(server string) bool {
	scheme, _, found := strings.Cut(strings.TrimSpace(server), "://")
	return found && (slices.Contains(serverSchemes, scheme) || slices.Contains(routeSchemes, scheme))
}

// GoString keeps what is masked out of %#v.
func (u URLs) GoString() string { return u.String() }

// MarshalText keeps what is masked out of logs, JSON and YAML.
func (u URLs) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// maskURL works on the text and not on a parsed URL, so that one which does
// not parse can be shown in an error without giving a password away. The user is
// shown where it is certain to be one.
func maskURL(server string) string {
	at := strings.LastIndex(server, "@")
	if at < 0 {
		return server
	}
	start := 0
	if _, rest, found := strings.Cut(server, "://"); found && len(server)-len(rest) <= at {
		start = len(server) - len(rest)
	}
	if user, _, found := strings.Cut(server[start:at], ":"); found && !strings.ContainsAny(user, ",@") {
		return server[:start] + user + ":" + mask + server[at:]
	}
	return server[:start] + mask + server[at:]
}
