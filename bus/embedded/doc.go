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
// leaf nodes, monitoring) [Options.ConfigFile] takes a standard
// nats-server.conf. What only one of the two sets, the options or the file, is
// taken from there; what both leave open is the default. Where both set it:
//
//   - of the name and the address, the option holds, and the log says so;
//   - of JetStream's directory and its syncing, the file holds, with a warning;
//   - of the largest message, the file holds;
//   - of the cluster, neither: it is an error, but for what only the file can
//     tune, such as compression.
//
// nats-server's cache of who listens to which subject is off, unless the file has
// disable_sublist_cache false: it is for subjects that come again.
//
// [Server.Addr], [Server.StoreDir], [Server.SyncAlways] and [Server.MaxPayload]
// say what holds in the end.
//
// # Clusters
//
// With [Options.Cluster] the server is one of several, which may be started in
// any order: Start does not wait for the others. [Server.WaitForQuorum] does,
// and says in the log for whom. The first start of a cluster takes all servers
// that the routes name; from then on a majority is enough. The store directory of
// a server that stood alone is an error, if there are streams in it, also where it
// was that of a server of a cluster before; the file kvbus.alone in it tells.
//
// A server that comes under another name counts as one more, and a majority takes more
// of them. The log warns where JetStream counts more of them than the routes name, and
// says who is away.
//
// Any server of a cluster may be given a message that is meant for one of a queue
// group, also one that has gone silent. What [Cluster.Local] names goes to others only
// for who listens to more than that.
//
// Two of three go on when the third ends. With [Server.Shutdown] it hands over
// what it leads, which takes a tenth of a second; one that dies is replaced when
// it was silent for four to nine seconds. nats-server's lame duck mode is not
// used: it adds a second to the same, and a wait for clients to go.
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
// component=nats-server. Notices are Info while the server runs, and Debug
// while it starts and stops, which takes it a dozen of them each time; the
// process has its own line for both. Warnings and errors keep their level,
// fatal errors are Error, traces [LevelTrace]. Debug and trace lines are made
// only where the logger is enabled for them at the start. Where the file names
// a log_file, nats-server's lines go there instead, at the levels which the
// file sets. Syslog is not used; the log says so where the file asks for it.
//
// A failure of TLS between servers, of which they try several a second, and what a
// client may not do is logged once a minute for each, with how many like it were not.
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
// nats.go holds at most 64 MiB for a subscription that lags. A larger message
// gets through only where the subscriber raises its own limit
// (SetPendingLimits), whatever [Options.MaxPayload] is.
//
// A store directory belongs to one running server, which locks it: see
// [ErrStoreInUse].
//
// A stream that can't be read is an error of [Start], which names its directory, and
// leaves that as it is. By itself nats-server would remove it and go on. While the
// server starts, the files of streams have a second name in the store directory, in
// kvbus.kept; where the file system has none, only what is found before is left.
//
// The server is ready when [Start] returns, JetStream too, if it stands alone.
// Start takes as long as JetStream reads its files, and says so in the log.
//
// JetStream that can't write ends by itself in a cluster, for good: see
// [ErrNoJetStream]. Where it stands alone it goes on without an answer.
//
// The configuration is read once. A reload that is asked for over the system
// account (nats server config reload) is refused with an error: it would read
// the file without the options.
package embedded
