package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	probeFile = "kvbus.probe"
	probeSize = 1 << 20
)

// CheckDisk writes a file of 1 MiB beside JetStream's, and removes it again. It fails
// where JetStream would fail as well, if it was started anew.
func (s *Server) CheckDisk() error {
	file, err := os.Create(filepath.Join(filepath.Dir(s.storeDir), probeFile))
	if err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	_, err = file.Write(make([]byte, probeSize))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close(), os.Remove(file.Name())); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	return nil
}

// CheckStore fails when the store directory is no longer there, or is another one. The
// server may not notice: it goes on to write to files that nobody will find.
func (s *Server) CheckStore() error {
	if s.store.lock != nil && s.store.isReplaced() {
		return fmt.Errorf("embedded: the store directory was removed or replaced: %s is not the one that is locked", s.store.lock.Path())
	}
	return nil
}
