package config

import (
	"net/url"
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
// nats://***@host for a token.
func (u URLs) String() string {
	if !strings.Contains(string(u), "@") {
		return string(u)
	}
	var masked []string
	for server := range strings.SplitSeq(string(u), ",") {
		masked = append(masked, maskURL(server))
	}
	return strings.Join(masked, ",")
}

// GoString keeps what is masked out of %#v.
func (u URLs) GoString() string { return u.String() }

// MarshalText keeps what is masked out of logs, JSON and YAML.
func (u URLs) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// maskPart masks what can't be a server, as it has no port where one belongs: it
// may be the part of a password before a comma.
func maskPart(server string) string {
	scheme, rest, found := strings.Cut(server, "://")
	if !found {
		scheme, rest = "nats", server
	}
	if _, err := url.Parse(scheme + "://" + rest); err == nil {
		return server
	}
	user, _, _ := strings.Cut(rest, ":")
	return strings.TrimSuffix(server, rest) + user + ":" + mask
}

// maskURL works on the text and not on a parsed URL, so that one which does
// not parse can be shown in an error without giving a password away.
func maskURL(server string) string {
	at := strings.LastIndex(server, "@")
	if at < 0 {
		return maskPart(server)
	}
	start := 0
	if _, rest, found := strings.Cut(server, "://"); found && len(server)-len(rest) <= at {
		start = len(server) - len(rest)
	}
	if user, _, found := strings.Cut(server[start:at], ":"); found {
		return server[:start] + user + ":" + mask + server[at:]
	}
	return server[:start] + mask + server[at:]
}
