package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// ErrStoreInUse: another server that runs, in whatever process, has the store
// directory. Two would destroy each other's files: nats-server has no lock of its own.
var ErrStoreInUse = errors.New("another process uses the store directory")

const (
	// lockFile is the file in a store directory that the server which uses it has
	// locked. The lock ends with the process at the latest; the file stays.
	lockFile = "kvbus.lock"
	// storePerm are nats-server's permissions of a store directory.
	storePerm = 0o755
)

// lockStore locks a store directory, which is created if absent. To close the lock gives
// it free.
func lockStore(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, storePerm); err != nil {
		return nil, fmt.Errorf("embedded: store directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, lockFile))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("embedded: lock store directory: %w", err)
	case !locked:
		return nil, fmt.Errorf("embedded: %w: %s is locked", ErrStoreInUse, lock.Path())
	}
	return lock, nil
}
