package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	defaultHost = "127.0.0.1"
	defaultPort = server.DEFAULT_PORT
)

// Options configure a server. The zero value is a server on 127.0.0.1:4222 that
// holds nothing on disk and logs nothing.
type Options struct {
	// ServerName is the name in the server's log, in its INFO and in a
	// cluster; it has no spaces. Empty: the file's, or else HostName, or else
	// the server's ID.
	ServerName string
	HostName   string

	// Listen is the address for clients, "host:port". Port 0, or -1, is any
	// free one; an empty host is every interface. Empty: the file's, where
	// nats-server's rule holds that a port without a host is on every
	// interface; 127.0.0.1:4222 where the file has neither, and port 4222
	// where it has a host only.
	Listen string

	// ConfigFile is the path of a nats-server.conf. Empty: none.
	ConfigFile string

	// MaxPayload is the least that the largest message may have, in bytes,
	// headers included. It raises nats-server's default of 1 MiB and never
	// lowers it, and yields to a max_payload in the file. max_pending rises
	// with it, but a max_pending in the file that is less is an error.
	MaxPayload int

	// MaxControlLine is the least that the longest protocol line may have, in
	// bytes: nats-server ends the connection of who sends a longer one. A
	// max_control_line in the file that is less is an error; without one the
	// default of 4096 holds.
	MaxControlLine int

	// JetStream enables JetStream, with its files in StoreDir, which then must
	// be set here or in the file. False leaves it to the file. A file that
	// disables it is an error.
	JetStream bool

	// StoreDir is the directory under which JetStream makes its own, named
	// jetstream. It is created if absent. A store_dir in the file holds.
	StoreDir string

	// SyncAlways makes JetStream wait for the disk (fsync) before it
	// acknowledges a message. A sync_interval in the file holds; where
	// nothing is set, nats-server syncs every two minutes.
	SyncAlways bool

	// Cluster makes the server one of several. The zero value leaves it to the
	// file; one in both is an error.
	Cluster Cluster

	// Logger gets nats-server's log. Nil: nobody.
	Logger *slog.Logger
}

// natsOptions returns o over the file over the defaults, as nats-server takes
// them. Its errors name the option, or the file, and the rule that it broke.
func (o Options) natsOptions(logger *slog.Logger) (*server.Options, error) {
	if o.MaxPayload < 0 || o.MaxPayload > math.MaxInt32 {
		return nil, fmt.Errorf("embedded: MaxPayload is %d bytes: must be from 0 to %d", o.MaxPayload, math.MaxInt32)
	}
	so := &server.Options{
		// nats-server itself gets this one from a flag's default, so that a
		// file which does not speak of it has times in its log_file.
		Logtime: true,
		// Each key is a subject, and each answer has one of its own: a cache of who
		// listens to which costs more than it saves. A file may set it otherwise.
		NoSublistCache: true,
		// Set first, so that false afterwards means that the file said so.
		JetStream: o.JetStream,
	}
	if o.ConfigFile != "" {
		if err := readConfigFile(so, o.ConfigFile); err != nil {
			return nil, fmt.Errorf("embedded: config file %q: %w", o.ConfigFile, err)
		}
	}
	// The process's signals are the process's, and its log is no place for
	// drawings made of letters.
	so.NoSigs = true
	so.DisableJetStreamBanner = true

	if line := int(cmp.Or(so.MaxControlLine, server.MAX_CONTROL_LINE_SIZE)); line < o.MaxControlLine {
		return nil, fmt.Errorf("embedded: max_control_line is %d bytes: must be at least %d", line, o.MaxControlLine)
	}
	o.applyServerName(so, logger)
	if err := o.applyListen(so, logger); err != nil {
		return nil, err
	}
	o.applyMaxPayload(so)
	if err := o.applyJetStream(so, logger); err != nil {
		return nil, err
	}
	if err := o.applyCluster(so); err != nil {
		return nil, err
	}
	return so, nil
}

func (o Options) applyServerName(so *server.Options, logger *slog.Logger) {
	if o.ServerName == "" || o.ServerName == so.ServerName {
		so.ServerName = cmp.Or(so.ServerName, o.HostName)
		return
	}
	if so.ServerName != "" {
		logOptionHolds(logger, "server_name", o.ServerName, so.ServerName)
	}
	so.ServerName = o.ServerName
}

func (o Options) applyListen(so *server.Options, logger *slog.Logger) error {
	if o.Listen != "" {
		host, port, err := parseListen(o.Listen)
		if err != nil {
			return fmt.Errorf("embedded: Listen is %q: %w", o.Listen, err)
		}
		if (so.Host != "" || so.Port != 0) && (so.Host != host || so.Port != port) {
			logOptionHolds(logger, "listen", o.Listen, net.JoinHostPort(so.Host, strconv.Itoa(so.Port)))
		}
		so.Host, so.Port = host, port
		return nil
	}
	if so.Port == 0 {
		so.Port = defaultPort
		if so.Host == "" {
			so.Host = defaultHost
		}
	}
	return nil
}

func (o Options) applyMaxPayload(so *server.Options) {
	if so.MaxPayload != 0 {
		return
	}
	so.MaxPayload = int32(max(o.MaxPayload, server.MAX_PAYLOAD_SIZE))
	if so.MaxPending == 0 {
		// nats-server takes two equal ones, but then cuts off whoever gets
		// the largest message: its protocol line is over the limit. With
		// twice as much one can be on its way while the next arrives.
		so.MaxPending = max(2*int64(so.MaxPayload), server.MAX_PENDING_SIZE)
	}
}

// applyJetStream leaves to the file what it says of JetStream: where the data
// is and how it is kept belongs together, and is not split between two places.
func (o Options) applyJetStream(so *server.Options, logger *slog.Logger) error {
	switch {
	case o.JetStream && !so.JetStream:
		return fmt.Errorf("embedded: config file %q disables JetStream, which the options enable: must agree", o.ConfigFile)
	case o.StoreDir != "" && !so.JetStream:
		return fmt.Errorf("embedded: StoreDir is %q: has no use unless JetStream is enabled", o.StoreDir)
	case o.SyncAlways && !so.JetStream:
		return errors.New("embedded: SyncAlways is set: has no use unless JetStream is enabled")
	}
	switch {
	case so.StoreDir == "":
		so.StoreDir = o.StoreDir
	case o.StoreDir != "" && o.StoreDir != so.StoreDir:
		logFileHolds(logger, "store_dir", o.StoreDir, so.StoreDir)
	}
	switch {
	case so.SyncInterval == 0: // The file says nothing; its "always" has one too.
		so.SyncAlways = o.SyncAlways
	case o.SyncAlways && !so.SyncAlways:
		logFileHolds(logger, "sync_interval", "always", so.SyncInterval.String())
	}
	if o.JetStream && so.StoreDir == "" {
		// Without one nats-server would take a directory in the system's
		// temporary one, the same for every server on the machine.
		return errors.New("embedded: JetStream is enabled without a StoreDir: must have one, here or in the config file")
	}
	if so.JetStream && so.StoreDir == "" {
		so.StoreDir = temporaryStore(so)
		logger.Warn("the config file names no store_dir: JetStream's files are temporary", "store_dir", so.StoreDir)
	}
	return nil
}

// temporaryStore is the directory that nats-server would take, which it does not tell
// in time to lock it.
func temporaryStore(so *server.Options) string {
	if so.JetStreamMaxMemory > 0 && so.JetStreamMaxStore > 0 {
		return os.TempDir()
	}
	return filepath.Join(os.TempDir(), "nats")
}

func logOptionHolds(logger *slog.Logger, setting, option, file string) {
	logger.Info("an option overrides the config file", "setting", setting, "option", option, "file", file)
}

// logFileHolds warns, because the caller may have promised what it asked for.
func logFileHolds(logger *slog.Logger, setting, option, file string) {
	logger.Warn("the config file overrides an option", "setting", setting, "option", option, "file", file)
}

// parseListen returns the port as nats-server takes it: -1 is any free one,
// because its 0 is the default one.
func parseListen(listen string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("must be host:port: %w", err)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < server.RANDOM_PORT || port > math.MaxUint16 {
		return "", 0, fmt.Errorf("port %q must be a number from 0 to %d, or -1", text, math.MaxUint16)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// readConfigFile reads the file over what so holds already, which
// server.ProcessConfigFile can't: it starts from nothing.
func readConfigFile(so *server.Options, path string) error {
	err := so.ProcessConfigFile(path)
	var found interface{ Errors() []error }
	if errors.As(err, &found) {
		if len(found.Errors()) == 0 {
			return nil // Warnings, which nats-server starts with too.
		}
		// It ends each of its lines, the last one as well.
		return errors.New(strings.TrimSpace(err.Error()))
	}
	return err
}
