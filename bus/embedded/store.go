package embedded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
)

// The names that nats-server gives in a store directory.
const (
	streamsDir  = "streams"
	blockSuffix = ".blk"
	keySuffix   = ".key"
	keyFile     = "meta.key"
)

const (
	// keptDir is where the files of the streams have a second name while the server
	// starts.
	keptDir = "kvbus.kept"
	// keptPerm are nats-server's permissions of directories of streams.
	keptPerm        = 0o700
	putBackAttempts = 10
)

// A store is the store directory of a server that runs. A stream that nats-server
// can't read when it starts, for whatever reason, it removes from the disk with all
// that is in it: in a cluster, another server has the same. So until all of them are
// read their files have another name as well, by which they are put back.
type store struct {
	dir     string
	lock    *flock.Flock
	locked  fs.FileInfo    // of the lock's file
	streams []storedStream // until they are known to be recovered
}

// A storedStream is a stream with files in a store directory.
type storedStream struct {
	account, name string
	dir           string
	info          fs.FileInfo // of dir
	kept          bool
}

// openStore locks the store directory, which is created if absent, looks whether the
// server can read the streams in it, and keeps them. It fails where the server can't
// read them.
func openStore(so *server.Options, logger *slog.Logger) (_ *store, err error) {
	s := &store{dir: so.StoreDir}
	if s.dir == "" {
		return s, nil
	}
	if s.lock, err = lockStore(s.dir); err != nil {
		return nil, err
	}
	if s.locked, err = s.lock.Stat(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded: store directory: %w", err), s.lock.Close())
	}
	if !so.JetStream {
		return s, nil
	}
	if err = s.restore(); err == nil {
		err = s.survey()
	}
	if err == nil && so.Cluster.Port != 0 {
		err = s.checkCluster()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded: store directory: %w", err), s.lock.Close())
	}
	if err := s.keep(); err != nil {
		// There are file systems on which a file has one name only.
		logger.Debug("streams have no second name while the server starts", "reason", err)
	}
	return s, nil
}

func (s *store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// survey finds the streams, and fails with the name of what can't be read.
func (s *store) survey() error {
	accounts, err := os.ReadDir(s.path(server.JetStreamStoreDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, account := range accounts {
		if account.Name() == "lost+found" {
			continue // not the server's, and only for root
		}
		dir := s.path(server.JetStreamStoreDir, account.Name(), streamsDir)
		streams, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, entry := range streams {
			if !entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
				continue // of a stream that is being removed
			}
			stream := storedStream{account: account.Name(), name: entry.Name(), dir: s.streamDir(account.Name(), entry.Name())}
			if stream.info, err = os.Stat(stream.dir); err != nil {
				return err
			}
			s.streams = append(s.streams, stream)
		}
		if err := filepath.WalkDir(dir, usable); err != nil {
			return err
		}
	}
	return nil
}

// checkCluster fails where there are streams of a server that stood alone. Those of a
// cluster are what its servers agree on, which they keep beside them: others are taken
// away, or asked for anew and then empty.
func (s *store) checkCluster() error {
	if len(s.streams) == 0 {
		return nil
	}
	agreed, err := fs.Glob(os.DirFS(s.dir), server.JetStreamStoreDir+"/*/_js_/_meta_")
	if err == nil && len(agreed) == 0 {
		err = fmt.Errorf("%s holds the store of a single node: must be empty, or that of a node of the cluster", s.dir)
	}
	return err
}

// usable is a [fs.WalkDirFunc] that fails where the server can't use what it finds: a
// directory, a block of a log or a key. It could do without the rest.
func usable(path string, entry fs.DirEntry, err error) error {
	switch {
	case err != nil:
		return err
	case entry.IsDir() && strings.HasPrefix(entry.Name(), "."):
		return fs.SkipDir // of a stream that is being removed
	case entry.IsDir():
		return writable(path)
	case strings.HasSuffix(path, blockSuffix), strings.HasSuffix(path, keySuffix):
		return readable(path)
	default:
		return nil
	}
}

// writable fails where a directory is another user's. A full disk is none of its
// business.
func writable(dir string) error {
	probe, err := os.CreateTemp(dir, probeFile)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("write in %s: %w", dir, fs.ErrPermission)
	}
	if err != nil {
		return nil
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

func readable(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err = file.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// keep gives the files of the streams their second name.
func (s *store) keep() error {
	for i, stream := range s.streams {
		to := s.path(keptDir, stream.account, stream.name)
		if err := os.MkdirAll(filepath.Dir(to), keptPerm); err != nil {
			return err
		}
		if err := linkTree(stream.dir, to); err != nil {
			return errors.Join(err, os.RemoveAll(to))
		}
		s.streams[i].kept = true
	}
	return nil
}

// linkTree makes a directory like another one, with the same files.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		name = filepath.Join(to, name)
		if entry.IsDir() {
			return os.Mkdir(name, keptPerm)
		}
		return os.Link(path, name)
	})
}

// verify fails where the server has not recovered a stream, and has removed it because
// it can't read it, or can't decrypt it: what is asked for by the same name would take
// its place. Others, of which only the description is damaged, are read when they are
// asked for. It is called when the server has read all of them.
//
// Cause tells why a stream can't be read, and is nil for others. Recovered are the
// streams of each account that has JetStream.
func (s *store) verify(cause func(stream string) error, recovered map[string][]string) error {
	var errs []error
	for _, stream := range s.streams {
		if err := cause(stream.name); err != nil && stream.isRemoved() {
			outcome := "is left as it was"
			if !stream.kept {
				outcome = "was removed by nats-server"
			}
			errs = append(errs, fmt.Errorf("the stream %s can't be read, its directory %s %s: %w", stream.name, stream.dir, outcome, err))
			continue
		}
		names, known := recovered[stream.account]
		if known && !slices.Contains(names, stream.name) && stream.isEncrypted() {
			errs = append(errs, fmt.Errorf("the stream %s in %s is encrypted, and the config file has not its key: must have the key of JetStream that it was made with", stream.name, stream.dir))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	s.streams = nil
	return s.discard()
}

// isRemoved reports whether a stream's directory is no longer there, or is another one.
func (s storedStream) isRemoved() bool {
	info, err := os.Stat(s.dir)
	return err != nil || !os.SameFile(info, s.info)
}

// isEncrypted reports whether a stream can be read with a key only. That it has one
// itself, which is encrypted, says so.
func (s storedStream) isEncrypted() bool {
	_, err := os.Stat(filepath.Join(s.dir, keyFile))
	return err == nil
}

// close puts back what the server has removed, and unlocks the directory. Nothing of
// the server runs any more.
func (s *store) close() error {
	if s.lock == nil {
		return nil
	}
	var errs []error
	for _, stream := range s.streams {
		if stream.kept && stream.isRemoved() {
			errs = append(errs, os.RemoveAll(stream.dir), s.putBack(stream.account, stream.name))
		}
	}
	if errors.Join(errs...) == nil {
		errs = append(errs, s.discard())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// restore does what a process that was killed while its server started has left to do.
func (s *store) restore() error {
	kept, err := fs.Glob(os.DirFS(s.dir), keptDir+"/*/*")
	if err != nil {
		return err
	}
	for _, path := range kept {
		account, name := filepath.Base(filepath.Dir(path)), filepath.Base(path)
		if _, err := os.Stat(s.streamDir(account, name)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := s.putBack(account, name); err != nil {
			return err
		}
	}
	return s.discard()
}

func (s *store) putBack(account, name string) (err error) {
	dir := s.streamDir(account, name)
	// With a stream nats-server removes the directories above it, a little later, where
	// they are empty.
	for range putBackAttempts {
		if err = os.MkdirAll(filepath.Dir(dir), keptPerm); err == nil {
			err = os.Rename(s.path(keptDir, account, name), dir)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

func (s *store) discard() error { return os.RemoveAll(s.path(keptDir)) }

func (s *store) streamDir(account, name string) string {
	return s.path(server.JetStreamStoreDir, account, streamsDir, name)
}
