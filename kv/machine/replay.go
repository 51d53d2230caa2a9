package machine

import (
	"strings"

	"kvbus/kv"
)

// Replay answers q as [kv.Store.Replay] does. It holds the lock for a few
// events at a time.
func (s *Shared) Replay(q kv.ReplayQuery) (kv.Replay, error) {
	if err := q.Validate(); err != nil {
		return kv.Replay{}, err
	}
	return s.replay(q, s.Settled())
}

// replay answers q as if newest were the revision of the store.
func (s *Shared) replay(q kv.ReplayQuery, newest uint64) (kv.Replay, error) {
	replay := kv.Replay{Revision: q.After}
	buf := make([]kv.Event, 256)
	size := 0
	for {
		n, err := s.Events(replay.Revision, buf)
		if err != nil {
			return kv.Replay{}, err
		}
		for i := range n {
			event := &buf[i]
			if event.Revision > newest {
				return replay, nil
			}
			if strings.HasPrefix(event.Key, q.Prefix) && q.Filter.Match(event.Key) {
				size += len(event.Key) + len(event.Value)
				full := q.Limit > 0 && len(replay.Events) == q.Limit || q.MaxBytes > 0 && size > q.MaxBytes
				if full && len(replay.Events) > 0 {
					replay.More = true
					return replay, nil
				}
				replay.Events = append(replay.Events, *event)
			}
			replay.Revision = event.Revision
		}
		if n == 0 || replay.Revision == newest {
			return replay, nil
		}
	}
}
