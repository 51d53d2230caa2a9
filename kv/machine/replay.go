package machine

import (
	"strings"

	"kvbus/kv"
)

// Replay answers q as [kv.Store.Replay] says, from a store at revision newest.
// It reads through events, which is [Machine.Events] with the lock that its
// caller needs: a long replay takes the lock for a short while at a time.
func Replay(q kv.ReplayQuery, newest uint64, events func(after uint64, buf []kv.Event) (int, error)) (kv.Replay, error) {
	replay := kv.Replay{Revision: q.After}
	buf := make([]kv.Event, 256)
	size := 0
	for {
		n, err := events(replay.Revision, buf)
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
