package replicated

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/kv/machine"
)

const (
	// snapshotCheck is how often a worker looks whether a snapshot is due.
	snapshotCheck = time.Second
	// snapshotRetry is the pause after an attempt that failed.
	snapshotRetry = 5 * time.Second
	// publishTime is how long a full log waits at once for its last events to be
	// published, which takes some round trips.
	publishTime = time.Second
	// storedOverhead is what a record takes in the log's files, in bytes, beside its subject.
	storedOverhead = 30
)

var errNoRoom = errors.New("the log is full, and has nothing that is not needed: store.log_max_bytes or the disk is too small, or the events are not published")

// A snapshotDue tells when a snapshot is due.
type snapshotDue struct {
	sequence uint64 // of the last one
	bytes    int64  // of the log since
	since    time.Time
}

func (d *snapshotDue) reset(sequence uint64) {
	*d = snapshotDue{sequence: sequence, since: time.Now()}
}

// keepSnapshots takes snapshots when they are due, and when the log is full,
// until ctx ends.
//
// The workers do not speak with each other about it. They take turns by their
// place among those that were heard of lately: each next one waits for a quarter
// more, and finds that there is a new snapshot.
func (s *Store) keepSnapshots(ctx context.Context) {
	ticker := time.NewTicker(snapshotCheck)
	defer ticker.Stop()
	var failed time.Time
	full := false
	for {
		select {
		case <-ticker.C:
		case <-s.full:
			full = true
		case <-ctx.Done():
			return
		}
		if time.Since(failed) < snapshotRetry {
			continue
		}
		var err error
		if full {
			err = s.makeRoom(ctx)
		} else if s.isSnapshotDue() {
			err = s.Snapshot(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.logger.Error("no snapshot was taken", "error", err)
			if !s.renewSnapshots(ctx, err) {
				failed = time.Now()
			}
		}
		full = false
	}
}

// renewSnapshots makes the store of the snapshots again where somebody has removed it,
// for which err is a sign, and reports whether it did. The next snapshot has all of the
// state.
func (s *Store) renewSnapshots(ctx context.Context, err error) bool {
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return false
	}
	asking, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := s.js.Stream(asking, snapshotsStream(s.opts.Prefix)); !errors.Is(err, jetstream.ErrStreamNotFound) {
		return false
	}
	if _, err := s.openSnapshots(ctx); err != nil {
		s.logger.Error("the store of the snapshots was removed, and can't be made again", "error", err)
		return false
	}
	s.logger.Warn("the store of the snapshots was removed, and is made again")
	return true
}

// isSnapshotDue reports whether it is for this worker to take a snapshot.
func (s *Store) isSnapshotDue() bool {
	var due snapshotDue
	place := 0
	if _, err := s.shared.Update(func(m *machine.Machine) {
		due = s.due
		place = s.place()
	}); err != nil {
		return false
	}
	if due.bytes >= staggered(s.opts.SnapshotBytes, place) {
		return true
	}
	return s.applied.Load() > due.sequence && time.Since(due.since) >= staggered(s.opts.SnapshotAge, place)
}

// staggered is how much it takes for the worker in that place, where it takes n for the
// first.
func staggered[T int64 | time.Duration](n T, place int) T {
	if place > 0 && n/4 > (math.MaxInt64-n)/T(place) {
		return math.MaxInt64
	}
	return n + n/4*T(place)
}

// removeOld removes snapshots and log records that nobody needs any more: those
// before the last snapshots of which all events are published.
func (s *Store) removeOld(ctx context.Context) error {
	usable, err := s.usable(ctx)
	if err != nil || len(usable) < snapshotsKept {
		return err
	}
	oldest := usable[snapshotsKept-1].sequence
	if err := s.snapshots.removeBefore(ctx, oldest); err != nil {
		return err
	}
	if oldest <= s.opts.LogTail {
		return nil
	}
	return s.purge(ctx, oldest-s.opts.LogTail)
}

// makeRoom removes all of the log that is not needed to start from the newest
// snapshot, which it takes if it can, and reads again before it relies on it alone.
// Where it can't yet, as the events up to there are not known to be published, it
// gives them a moment.
func (s *Store) makeRoom(ctx context.Context) error {
	s.snapshotting.Lock()
	defer s.snapshotting.Unlock()
	err := errors.Join(s.removeUseless(ctx), s.storeSnapshot(ctx))
	purged := s.purgeToNewest(ctx)
	marked := s.markEnd(ctx)
	if errors.Is(purged, errNoRoom) && s.isPublishedSoon(ctx) {
		purged = s.purgeToNewest(ctx)
	}
	return errors.Join(err, purged, marked)
}

// isPublishedSoon waits until all events up to the newest snapshot are published,
// and reports false where that takes longer than publishTime.
func (s *Store) isPublishedSoon(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	stored, err := s.snapshots.whole(ctx)
	if err != nil || len(stored) == 0 {
		return false
	}
	poll := time.NewTicker(publishTime / 50)
	defer poll.Stop()
	for {
		published, err := s.published(ctx)
		if err != nil || published >= stored[0].sequence {
			return err == nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return false
		}
	}
}

// removeUseless removes what takes room and no worker can start from: what is left of
// snapshots that were not stored, and the snapshots before the newest whole one after
// which the log does not go on.
func (s *Store) removeUseless(ctx context.Context) error {
	if err := s.snapshots.removeRemains(ctx, snapshotTimeout); err != nil {
		return err
	}
	stored, err := s.snapshots.list(ctx)
	newest := slices.IndexFunc(stored, storedSnapshot.whole)
	if err != nil || newest < 0 {
		return err
	}
	log, err := s.logState(ctx)
	if err != nil {
		return err
	}
	for _, snapshot := range stored[newest+1:] {
		if snapshot.sequence+1 >= log.FirstSeq {
			continue
		}
		if err := s.snapshots.remove(ctx, snapshot); err != nil {
			return err
		}
	}
	return nil
}

// markEnd appends a mark to a log that is full: without it nobody could say that
// the events of the last records are published. It is small, and has room where
// the last batch had none.
func (s *Store) markEnd(ctx context.Context) error {
	if s.Marked() >= s.applied.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s.ends++
	b := batch{Worker: s.id + "-end", Number: s.ends, Base: s.ends}
	m, err := s.nc.RequestWithContext(ctx, markSubject(s.opts.Prefix), b.append(nil))
	if err == nil {
		_, err = acknowledgement(m)
	}
	if err != nil {
		return fmt.Errorf("append a mark: %w", err)
	}
	return nil
}

// purgeToNewest removes the log before the newest snapshot that can be read.
func (s *Store) purgeToNewest(ctx context.Context) error {
	usable, err := s.usable(ctx)
	if err != nil {
		return err
	}
	for _, snapshot := range usable {
		log, err := s.logState(ctx)
		if err != nil {
			return err
		}
		if snapshot.sequence <= log.FirstSeq {
			break // it makes no room
		}
		if err := s.verify(ctx, snapshot); err != nil {
			s.logger.Error("a snapshot can't be used", "snapshot", snapshot.name, "error", err)
			continue
		}
		s.logger.Warn("the log is full; what the newest snapshot has is removed from it", "up_to", snapshot.sequence, "bytes", log.Bytes)
		return s.purge(ctx, snapshot.sequence)
	}
	return errNoRoom
}

// usable returns the whole snapshots of which all events are published, the newest
// first.
func (s *Store) usable(ctx context.Context) ([]storedSnapshot, error) {
	published, err := s.published(ctx)
	if errors.Is(err, errNoCursor) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stored, err := s.snapshots.whole(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(stored, func(snapshot storedSnapshot) bool { return snapshot.sequence > published }), nil
}

// verify reads a snapshot whole.
func (s *Store) verify(ctx context.Context, snapshot storedSnapshot) error {
	object, err := s.snapshots.open(ctx, snapshot)
	if err != nil {
		return err
	}
	_, entries, err := readSnapshot(object)
	if err != nil {
		return err
	}
	for _, err := range entries {
		if err != nil {
			return err
		}
	}
	return nil
}

// purge removes the log before a record.
func (s *Store) purge(ctx context.Context, before uint64) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, streamName(s.opts.Prefix))
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSequence(before))
	}
	if err != nil {
		return fmt.Errorf("remove the log before %d: %w", before, err)
	}
	return nil
}
