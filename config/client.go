package config

import (
	"cmp"
	"net"
)

// defaultListen is where an embedded server listens that nobody tells where.
const defaultListen = "127.0.0.1:4222"

// client returns what of c concerns a client of the service, over the defaults:
// how it logs, where its server is and by which prefix. Where no external server
// is named it is the embedded one of a worker with the same settings.
func (c Config) client() Config {
	client := Default()
	client.Log, client.NATS, client.Bus = c.Log, c.NATS, c.Bus
	host, port, err := net.SplitHostPort(cmp.Or(c.NATS.Listen, defaultListen))
	if err != nil {
		return client // validation tells what is wrong with it
	}
	client.NATS.Listen, client.NATS.Config = "", ""
	if c.NATS.External() {
		return client
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if port == "0" {
		_, port, _ = net.SplitHostPort(defaultListen) // which one it got is not known
	}
	client.NATS.URL = URLs("nats://" + net.JoinHostPort(host, port))
	return client
}
