// Package embedded runs a nats-server inside the process. It knows nothing of
// what is said over it.
//
// # Use
//
// [Start] gives a server that takes connections, or an error and nothing left
// running. The zero [Options] listen on 127.0.0.1:4222, without JetStream.
// [Server.Connect] connects from within the process, past the network; everyone
// else connects to [Server.ClientURL].
//
// For all that NATS can do beyond the options (accounts, TLS, websocket, MQTT,
// leaf nodes, clusters, monitoring) [Options.ConfigFile] takes a standard
// nats-server.conf. What the caller sets in the options holds over the file,
// and the log says so; what the caller leaves at zero is the file's; what both
// leave open is the default. [Options.MaxPayload] alone is different: it is a
// floor for the default, and a max_payload in the file holds over it, so read
// [Server.MaxPayload] for what holds in the end.
//
// # Authentication
//
// Nobody gets in past the file's users, in the process neither: give
// [Server.Connect] the credentials as options of nats.go. Where the file
// demands TLS, a connection in the process needs none, except where the
// client's certificate is what says who it is (verify_and_map): pass it then,
// and the connection speaks TLS in the process as well.
//
// Wrong credentials are an error at once, which is [Server.InProcessConn]'s
// doing: on nats-server's own in-process connection they block the client for
// ten seconds, whatever its timeout.
//
// # The log
//
// nats-server's log goes to [Options.Logger], each record with
// component=nats-server: notices as Info, fatal errors as Error, traces as
// [LevelTrace]. Debug and trace lines are made only where the logger is enabled
// for them at the start. Where the file names a log_file, nats-server's lines
// go there instead, at the levels which the file sets. Syslog is not used; the
// log says so where the file asks for it.
//
// A fatal error never ends the process. One that comes up during [Start] is
// its error; a later one is only logged.
//
// # Shutdown
//
// [Server.Shutdown] closes every connection and stores what JetStream holds;
// when it returns nil, nothing of the server runs and its ports are free.
// Drain and close the process's own connections first, or they try to
// reconnect to a server that is gone. The server handles no signals.
//
// # What else to know
//
// A store directory belongs to one running server. nats-server does not lock
// it, so nothing stops a second server from writing there as well.
//
// The server is ready when [Start] returns, JetStream too, if it stands alone.
// In a cluster JetStream needs its peers, which Start does not wait for.
//
// The configuration is read once. A reload that is asked for over the system
// account (nats server config reload) is refused with an error: it would read
// the file without the options.
package embedded
