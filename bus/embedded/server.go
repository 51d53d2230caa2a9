package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// readyPoll is how often a server that starts is asked whether it
	// listens. nats-server spins if it is asked for 25ms or less.
	readyPoll = 30 * time.Millisecond

	// startTimeout is how long a server without JetStream may take to start. With it,
	// a start takes as long as its files are large and their disk is slow.
	startTimeout = 30 * time.Second

	// startRepeat is how often the log says that a server is still starting.
	startRepeat = 5 * time.Second

	// abortTimeout bounds how long a start that failed waits for what it
	// started to end.
	abortTimeout = 5 * time.Second
)

// Server is a running nats-server. Its methods may be called from any
// goroutine. What it says of itself it says after its end as well.
type Server struct {
	ns         *server.Server
	log        *natsLog
	logger     *slog.Logger
	host       string
	scheme     string
	maxPayload int
	jetStream  bool
	storeDir   string
	syncAlways bool
	local      bool
	addr       net.Addr

	clusterAddr net.Addr   // nil without a cluster
	advertise   string     // the option or the file's
	routes      []*url.URL // the same
	ownCluster  bool       // it is the options'
	watchOnce   sync.Once
	watching    sync.WaitGroup // the watch of the headcount

	store    *store
	started  chan struct{} // closed when nats-server's own Start has returned
	stopOnce sync.Once
	life     context.Context // ends when the server is told to end
	end      context.CancelFunc
	stopped  chan struct{} // closed when nothing of the server runs
}

// Start starts a server and returns when it takes connections. It ends with an
// error when ctx does, and without JetStream after 30 seconds; ctx does not bound
// the server's life after that.
//
// The error names the option, the config file or the address that is at fault.
// It wraps the cause where there is one: [os.ErrNotExist] of a config file,
// [syscall.EADDRINUSE] of an address that another has, [ErrStoreInUse], [ErrNoJetStream].
func Start(ctx context.Context, opts Options) (*Server, error) {
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	logger = logger.With("component", "nats-server")

	if ctx.Err() != nil {
		return nil, fmt.Errorf("embedded: start nats-server: %w", context.Cause(ctx))
	}
	so, err := opts.natsOptions(logger)
	if err != nil {
		return nil, err
	}
	log, err := newNATSLog(so, logger)
	if err != nil {
		return nil, err
	}
	store, err := openStore(so, logger)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	ns, err := server.NewServer(so)
	if err != nil {
		err = fmt.Errorf("embedded: nats-server refuses its options%s: %w", inputs(so), err)
		return nil, errors.Join(err, store.close(), log.Close())
	}
	ns.SetLoggerV2(log, log.debug, log.trace, so.TraceVerbose)

	s := &Server{
		ns:         ns,
		log:        log,
		host:       so.Host,
		scheme:     "nats",
		maxPayload: int(so.MaxPayload),
		jetStream:  so.JetStream,
		syncAlways: so.JetStream && so.SyncAlways,
		local:      opts.Cluster.keepsLocal(so),
		logger:     logger,
		advertise:  so.Cluster.Advertise,
		routes:     so.Routes,
		ownCluster: !opts.Cluster.none(),
		store:      store,
		started:    make(chan struct{}),
		stopped:    make(chan struct{}),
	}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	if so.TLSConfig != nil && !so.AllowNonTLS {
		s.scheme = "tls"
	}
	given := inputs(so) // The server owns the rest of so from here on.
	ready := ctx
	if !so.JetStream {
		var cancel context.CancelFunc
		ready, cancel = context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
		defer cancel()
	}
	if err := s.start(ready); err != nil {
		err = fmt.Errorf("embedded: start nats-server%s: %w", given, err)
		abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
		defer cancel()
		return nil, errors.Join(err, s.Shutdown(abort))
	}
	return s, nil
}

// inputs names for errors what nats-server's own do not name.
func inputs(so *server.Options) string {
	var b strings.Builder
	if so.ConfigFile != "" {
		fmt.Fprintf(&b, " with config file %q", so.ConfigFile)
	}
	if so.JetStream {
		fmt.Fprintf(&b, " with store directory %q", so.StoreDir)
	}
	return b.String()
}

func (s *Server) start(ctx context.Context) error {
	// It returns by itself, but not before JetStream has read its files.
	go func() {
		defer close(s.started)
		s.ns.Start()
	}()
	if err := s.awaitStarted(ctx); err != nil {
		return err
	}
	if s.ns.JetStreamEnabled() {
		recovered, err := s.streams()
		if err == nil {
			err = s.store.verify(s.log.unread, recovered)
		}
		if err != nil {
			return err
		}
	}
	// The listeners for routes are opened after it has returned.
	for {
		ready := s.ns.ReadyForConnections(readyPoll)
		select {
		case err := <-s.log.first:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
		if ready {
			return s.running()
		}
	}
}

// streams returns the names of the streams of each account that has JetStream.
func (s *Server) streams() (map[string][]string, error) {
	info, err := s.ns.Jsz(&server.JSzOptions{Streams: true, Limit: math.MaxInt})
	if err != nil {
		return nil, err
	}
	names := map[string][]string{}
	for _, account := range info.AccountDetails {
		names[account.Id] = []string{}
		for _, stream := range account.Streams {
			names[account.Id] = append(names[account.Id], stream.Name)
		}
	}
	return names, nil
}

// awaitStarted waits until nats-server's own Start has returned. JetStream may
// have gigabytes to read, so the log says now and then that it goes on.
func (s *Server) awaitStarted(ctx context.Context) error {
	repeat := time.NewTicker(startRepeat)
	defer repeat.Stop()
	for begun := time.Now(); ; {
		select {
		case <-s.started:
			return nil
		case <-repeat.C:
			s.logger.Info("still starting; JetStream reads its files first", "since", time.Since(begun).Round(time.Second))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// running takes note of what is known once the server listens.
func (s *Server) running() error {
	// In a cluster, JetStream that can't write disables itself, without a
	// fatal error.
	if s.jetStream && !s.ns.JetStreamEnabled() {
		return ErrNoJetStream
	}
	s.storeDir = s.ns.StoreDir()
	s.addr = s.ns.Addr()
	if addr := s.ns.ClusterAddr(); addr != nil {
		s.clusterAddr = addr
	}
	s.log.up.Store(true)
	return nil
}

// Shutdown ends the server and waits until nothing of it runs. Where ctx ends
// before that, the error wraps ctx's cause, the server goes on ending by itself,
// and another call waits for it again. Once it has ended, Shutdown is nil.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopOnce.Do(func() {
		s.end()
		go func() {
			defer close(s.stopped)
			// To end what has not wholly begun is a race in nats-server.
			<-s.started
			s.log.up.Store(false)
			s.ns.Shutdown()
			s.ns.WaitForShutdown()
			s.watchOnce.Do(func() {}) // it does not begin any more
			s.watching.Wait()
			if err := s.store.close(); err != nil {
				s.logger.Warn("the store directory is not as it was before the start", "error", err)
			}
			_ = s.log.Close() // nobody could be told any more
		}()
	})
	select {
	case <-s.stopped:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-s.stopped:
		return nil
	default:
		return fmt.Errorf("embedded: nats-server %s has not ended yet: %w", s.Name(), context.Cause(ctx))
	}
}

// ID is the server's public nkey. It is another one after each start.
func (s *Server) ID() string { return s.ns.ID() }

// Name is the server's name: the option's, the file's, or else the ID.
func (s *Server) Name() string { return s.ns.Name() }

// Addr is the address that the server listens on for clients, with the port
// that it got where any free one was asked for. It is never nil.
func (s *Server) Addr() net.Addr { return s.addr }

// MaxPayload is the size in bytes, headers included, of the largest message
// that the server takes.
func (s *Server) MaxPayload() int { return s.maxPayload }

// SyncAlways reports whether JetStream waits for the disk before it acknowledges
// a message, which the config file may have chosen. It is false without JetStream.
func (s *Server) SyncAlways() bool { return s.syncAlways }

// StoreDir is the directory that holds JetStream's files, which the config file
// may have chosen: the one named jetstream. It is empty without JetStream.
func (s *Server) StoreDir() string { return s.storeDir }

// ClientURL is a URL by which clients on this machine reach the server: with
// the scheme tls where the server demands that, the host that was configured,
// or a loopback address where that is every interface, and the port. It has no
// credentials.
func (s *Server) ClientURL() string {
	u := url.URL{Scheme: s.scheme, Host: s.hostPort()}
	return u.String()
}

func (s *Server) hostPort() string {
	host := s.host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(s.addr.(*net.TCPAddr).Port))
}
