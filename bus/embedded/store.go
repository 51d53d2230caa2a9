package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
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
// that is in it: in a cluster, another server has the same. So until it is read its
// files have another name as well, by which they are put back.
type store struct {
	dir     string
	lock    *flock.Flock
	locked  fs.FileInfo    // of the lock's file
	streams []storedStream // less those that are known to be recovered
	started bool           // the server was found to have read what it can
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
	switch {
	case err != nil:
	case so.Cluster.Port != 0:
		err = s.checkCluster()
	default:
		err = s.noteAlone()
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

// keep gives the files of each stream their second name.
func (s *store) keep() error {
	var errs []error
	for i, stream := range s.streams {
		to := s.path(keptDir, stream.account, stream.name)
		err := os.MkdirAll(filepath.Dir(to), keptPerm)
		if err == nil {
			err = linkTree(stream.dir, to)
		}
		if s.streams[i].kept = err == nil; err != nil {
			errs = append(errs, err, os.RemoveAll(to))
		}
	}
	return errors.Join(errs...)
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
// asked for, and kept until the server ends. It is called when the server has read all
// of them.
//
// Cause tells why a stream can't be read, and is nil for others. Recovered are the
// streams of each account that has JetStream.
func (s *store) verify(cause func(stream string) error, recovered map[string][]string) error {
	var errs []error
	var later []storedStream
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
		if !known || slices.Contains(names, stream.name) {
			continue
		}
		later = append(later, stream)
		if stream.isEncrypted() {
			errs = append(errs, fmt.Errorf("the stream %s in %s is encrypted: must have the key that it was made with, in jetstream of the config file", stream.name, stream.dir))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	s.started = true
	for _, stream := range s.streams {
		if !slices.Contains(later, stream) {
			errs = append(errs, os.RemoveAll(s.path(keptDir, stream.account, stream.name)))
		}
	}
	if s.streams = later; len(later) == 0 {
		errs = append(errs, s.discard())
	}
	return errors.Join(errs...)
}

// close puts back what the server has removed, and unlocks the directory. Nothing of
// the server runs any more.
func (s *store) close() error {
	if s.lock == nil {
		return nil
	}
	if s.isReplaced() {
		return s.lock.Close() // what is there by now is none of its own
	}
	var errs []error
	for _, stream := range s.streams {
		// Of a server that was started, what has come in the place of a stream is what
		// was asked for since, or what others of its cluster have.
		if stream.kept && (stream.isGone() || stream.isRemoved() && !s.started) {
			errs = append(errs, os.RemoveAll(stream.dir), s.putBack(stream.account, stream.name))
		}
	}
	if errors.Join(errs...) == nil {
		errs = append(errs, s.discard())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// isReplaced reports whether the directory is no longer there, or is another one.
func (s *store) isReplaced() bool {
	info, err := os.Stat(s.lock.Path())
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, s.locked)
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
