package replicated

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// snapshotsKept is the number of snapshots that are kept, with the log after the
// oldest of them: one that is damaged leaves the one before it.
const snapshotsKept = 2

// load makes the machine that the newest usable snapshot holds the present one,
// or an empty one where the log still has its beginning. A snapshot is usable
// if it is whole, if the log goes on where it ends, and if all events up to it
// are published: those after it are made anew from the log. A store that runs never
// goes back: it keeps its machine where it is as new.
func (s *Store) load(ctx context.Context) error {
	published, err := s.published(ctx)
	if errors.Is(err, errNoCursor) {
		published, err = math.MaxUint64, nil // it was removed, or nobody publishes yet
	}
	if err != nil {
		return err
	}
	err = s.loadUpTo(ctx, published)
	if errors.Is(err, errRemoved) && !transient(err) && published < math.MaxUint64 {
		// The cursor is older than all there is, as after it was made anew.
		s.logger.Warn("no snapshot leads to the events that are not known to be published", "published_record", published)
		err = s.loadNewest(ctx)
	}
	return err
}

// loadNewest is load where the state matters more than events that are not published
// yet.
func (s *Store) loadNewest(ctx context.Context) error { return s.loadUpTo(ctx, math.MaxUint64) }

func (s *Store) loadUpTo(ctx context.Context, sequence uint64) error {
	header, m, err := s.restore(ctx, sequence, s.machineOptions())
	if err != nil {
		return err
	}
	if s.shared != nil && header.Sequence <= s.applied.Load() {
		return nil // what was read here once must not be gone
	}
	if err := s.catchUp(ctx, header.Sequence); err != nil {
		return err
	}
	s.adopt(header, m)
	if header.Sequence > 0 {
		s.logger.Info("snapshot loaded", "sequence", header.Sequence, "revision", header.Revision, "keys", header.Keys)
	}
	return nil
}

// restore returns the machine that the newest snapshot holds that is whole, has
// nothing after the record at upTo, and after which the log goes on; or an empty
// one where the log still has its beginning. A log that has lost its end goes on
// after the newest snapshot alone, whatever upTo is. It fails with [errRemoved] and
// [kv.ErrUnavailable] if there is none of that, and with an error that is transient
// as well if one may be found later.
func (s *Store) restore(ctx context.Context, upTo uint64, opts machine.Options) (snapshotHeader, *machine.Machine, error) {
	log, err := s.logState(ctx)
	if err != nil {
		return snapshotHeader{}, nil, fmt.Errorf("load: %w", err)
	}
	stored, err := s.snapshots.list(ctx)
	if err != nil {
		return snapshotHeader{}, nil, err
	}
	lostEnd := len(stored) > 0 && stored[0].sequence > log.LastSeq
	if lostEnd { // or it has gone on meanwhile, and a snapshot was taken of that
		now, err := s.logState(ctx)
		if err != nil {
			return snapshotHeader{}, nil, fmt.Errorf("load: %w", err)
		}
		lostEnd = stored[0].sequence > now.LastSeq
	}
	if lostEnd {
		stored = stored[:1]
		upTo = stored[0].sequence
	}
	var damage, unread error
	for _, snapshot := range stored {
		if snapshot.sequence > upTo || snapshot.sequence+1 < log.FirstSeq {
			continue
		}
		header, m, err := s.read(ctx, snapshot, opts)
		if err == nil {
			return header, m, nil
		}
		if ctx.Err() != nil {
			return snapshotHeader{}, nil, err
		}
		if damage = err; transient(err) {
			unread = err
		}
		s.logger.Error("a snapshot can't be used", "snapshot", snapshot.name, "error", err)
	}
	if lostEnd {
		none := fmt.Errorf("%w: %w: it ends at record %d, and the snapshot that has more can't be used", kv.ErrUnavailable, errRemoved, log.LastSeq)
		return snapshotHeader{}, nil, errors.Join(none, unread)
	}
	if log.FirstSeq > 1 {
		none := fmt.Errorf("%w: %w: it begins at record %d, and no snapshot leads there", kv.ErrUnavailable, errRemoved, log.FirstSeq)
		return snapshotHeader{}, nil, errors.Join(none, unread)
	}
	if damage != nil {
		s.logger.Warn("no snapshot can be used; the log has everything, and is read from its beginning")
	}
	return snapshotHeader{}, machine.New(opts), nil
}

// catchUp lets the log go on after a snapshot that is newer than its end: that was
// not yet on the disk when the power of all its servers failed, the snapshot was.
// It fails with [kv.ErrUnavailable] if the log is another one, which begins anew.
func (s *Store) catchUp(ctx context.Context, sequence uint64) error {
	log, err := s.logState(ctx)
	if err != nil || log.LastSeq >= sequence {
		return err
	}
	if log.LastSeq == 0 {
		return fmt.Errorf("%w: the log is new, and there is a snapshot of an older one, up to record %d: restore the log, or remove the snapshots with it",
			kv.ErrUnavailable, sequence)
	}
	s.logger.Warn("the log has lost its end; it goes on after the newest snapshot", "log_end", log.LastSeq, "snapshot", sequence)
	return s.purge(ctx, sequence+1)
}

// adopt makes m, which is as the header says, the present machine. The lock of
// the feed is held, unless the feed was not started yet.
func (s *Store) adopt(header snapshotHeader, m *machine.Machine) {
	s.feed.newest = max(s.feed.newest, header.Time)
	s.positions.reset(header.Sequence, header.Revision)
	also := func() {
		s.sessions = header.sessions()
		s.applied.Store(header.Sequence)
		s.due.reset(header.Sequence)
	}
	if s.shared == nil {
		also()
		s.shared = machine.Share(m)
	} else {
		s.shared.Replace(m, also)
	}
	s.deadline.set(m.DeadlineBound())
}

// read makes a machine with the options from one snapshot.
func (s *Store) read(ctx context.Context, snapshot storedSnapshot, opts machine.Options) (snapshotHeader, *machine.Machine, error) {
	object, err := s.snapshots.open(ctx, snapshot)
	if err != nil {
		return snapshotHeader{}, nil, err
	}
	header, entries, err := readSnapshot(object)
	if err != nil {
		return snapshotHeader{}, nil, err
	}
	m, err := machine.Restore(opts, machine.State{
		Revision: header.Revision,
		Time:     header.Time,
		Keys:     int(header.Keys),
		Limits:   header.Limits,
	}, header.Requests, entries)
	return header, m, err
}

// Snapshot stores the present state, and removes what it makes superfluous: all
// but the last snapshots, and the log before them. If another worker stored one
// of nearly the same state meanwhile, it does nothing. Commands go on.
func (s *Store) Snapshot(ctx context.Context) error {
	s.snapshotting.Lock()
	defer s.snapshotting.Unlock()
	useless := s.removeUseless(ctx)
	err := s.storeSnapshot(ctx)
	if err == nil { // what could not be removed keeps nothing else from it
		err = s.removeOld(ctx)
	}
	return errors.Join(useless, err)
}

// storeSnapshot stores the present state, unless there is a newer snapshot than the last
// one that this worker knew of, or the events up to the last one are not published:
// then neither could be used.
func (s *Store) storeSnapshot(ctx context.Context) error {
	stored, err := s.snapshots.whole(ctx)
	if err != nil {
		return err
	}
	if len(stored) > 0 {
		published, err := s.published(ctx)
		if err != nil && !errors.Is(err, errNoCursor) {
			return err
		}
		if err == nil && stored[0].sequence > published {
			return nil
		}
	}
	var (
		header snapshotHeader
		view   *machine.View
		before snapshotDue
	)
	start := time.Now()
	s.feed.mu.Lock() // or another machine could be adopted between its parts
	_, err = s.shared.Update(func(m *machine.Machine) {
		if len(stored) > 0 && (stored[0].sequence > s.due.sequence || stored[0].sequence == s.applied.Load()) {
			s.due.reset(stored[0].sequence)
			return
		}
		view = m.View()
		header = s.header(view)
		before = s.due
	})
	s.feed.mu.Unlock()
	if err != nil || view == nil {
		return err
	}
	defer view.Close()
	header.Requests = slices.Collect(view.Requests())
	size, err := s.snapshots.put(ctx, header.Sequence, func(w io.Writer) error { return writeSnapshot(w, header, view.All()) })
	if err != nil {
		return fmt.Errorf("store the snapshot: %w", err)
	}
	s.logger.Info("snapshot stored", "sequence", header.Sequence, "revision", header.Revision, "keys", header.Keys, "bytes", size, "took", time.Since(start))
	_, err = s.shared.Update(func(*machine.Machine) {
		if s.due.sequence == before.sequence { // and no other one was loaded meanwhile
			s.due = snapshotDue{sequence: header.Sequence, bytes: s.due.bytes - before.bytes, since: start}
		}
	})
	return err
}

// header describes the present state. The lock of the machine is held.
func (s *Store) header(view *machine.View) snapshotHeader {
	state := view.State()
	header := snapshotHeader{
		Sequence: s.applied.Load(),
		Time:     state.Time,
		Revision: state.Revision,
		Keys:     uint64(state.Keys),
		Limits:   state.Limits,
	}
	for _, session := range s.sessions {
		header.Sessions = append(header.Sessions, session)
	}
	slices.SortFunc(header.Sessions, func(a, b session) int { return cmp.Compare(a.Worker, b.Worker) })
	return header
}
