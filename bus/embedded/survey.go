package embedded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// The names that nats-server gives in a store directory.
const (
	streamsDir  = "streams"
	blockSuffix = ".blk"
	keySuffix   = ".key"
	keyFile     = "meta.key"
)

// aloneFile is in a store directory that a server of a cluster had, and since then one
// that stood alone.
const (
	aloneFile = "kvbus.alone"
	alonePerm = 0o644
)

// A storedStream is a stream with files in a store directory.
type storedStream struct {
	account, name string
	dir           string
	info          fs.FileInfo // of dir
	kept          bool        // has a second name
}

// isRemoved reports whether a stream's directory is no longer there, or is another one.
func (s storedStream) isRemoved() bool {
	info, err := os.Stat(s.dir)
	return err != nil || !os.SameFile(info, s.info)
}

// isGone reports whether there is nothing in the place of a stream's directory.
func (s storedStream) isGone() bool {
	_, err := os.Stat(s.dir)
	return errors.Is(err, fs.ErrNotExist)
}

// isEncrypted reports whether a stream can be read with a key only. That it has one
// itself, which is encrypted, says so.
func (s storedStream) isEncrypted() bool {
	_, err := os.Stat(filepath.Join(s.dir, keyFile))
	return err == nil
}

func (s *store) streamDir(account, name string) string {
	return s.path(server.JetStreamStoreDir, account, streamsDir, name)
}

// survey finds the streams, and fails with the name of what can't be read.
func (s *store) survey() error {
	accounts, err := os.ReadDir(s.path(server.JetStreamStoreDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, account := range accounts {
		if !account.IsDir() || account.Name() == "lost+found" {
			continue // not the server's; the latter is for root only
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
// away, or asked for anew and then empty. A server that stood alone in between has left
// that as it was, and its streams have gone on.
func (s *store) checkCluster() error {
	if len(s.streams) == 0 {
		return os.RemoveAll(s.path(aloneFile))
	}
	agreed, err := s.hasAgreed()
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.path(aloneFile)); !agreed || err == nil {
		return fmt.Errorf("%s holds the store of a single node: must be empty, or that of a node of the cluster", s.dir)
	}
	return nil
}

// noteAlone leaves a file for [store.checkCluster] where a server stands alone on what
// was that of a cluster. It is on the disk before anything that the server writes.
func (s *store) noteAlone() error {
	agreed, err := s.hasAgreed()
	if err != nil || !agreed {
		return err
	}
	if err := syncFile(s.path(aloneFile), os.O_CREATE|os.O_WRONLY); err != nil {
		return err
	}
	_ = syncFile(s.dir, os.O_RDONLY) // there are systems where no directory can be
	return nil
}

// syncFile forces a file, or the names in a directory, to the disk.
func syncFile(path string, flag int) error {
	file, err := os.OpenFile(path, flag, alonePerm)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// hasAgreed reports whether there is what servers of a cluster agree on.
func (s *store) hasAgreed() (bool, error) {
	agreed, err := fs.Glob(os.DirFS(s.dir), server.JetStreamStoreDir+"/*/_js_/_meta_")
	return len(agreed) > 0, err
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
	if _, err = file.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, file.Close())
}
