package bus

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"kvbus/kv"
)

// A watchHub is what all watches of a client share: one subscription to the
// heartbeats, and one look at the connection. The zero watchHub is ready.
type watchHub struct {
	probing sync.Mutex // held by who looks for errors of the connection

	mu      sync.Mutex
	members map[*watchQueue]func() // what ends one that nobody iterates
	beats   *nats.Subscription
	status  chan nats.Status
	stopped chan struct{} // closed when nobody looks at status any more
}

// join has queue told of heartbeats, and woken when the connection changes. abandon is
// called when the client is closed.
func (h *watchHub) join(nc *nats.Conn, subjects Subjects, queue *watchQueue, abandon func()) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.members) == 0 {
		if err := h.start(nc, subjects); err != nil {
			return err
		}
	}
	h.members[queue] = abandon
	return nil
}

func (h *watchHub) start(nc *nats.Conn, subjects Subjects) error {
	beats, err := nc.Subscribe(subjects.HeartbeatSubject(), func(m *nats.Msg) {
		if beat, err := DecodeHeartbeat(m); err == nil { // what is none proves nothing
			h.each(func(q *watchQueue) { q.hear(beat) })
		}
	})
	if err != nil {
		return fmt.Errorf("watch: %w", connectionError(err))
	}
	h.beats = beats
	h.members = make(map[*watchQueue]func())
	status, stopped := nc.StatusChanged(nats.CONNECTED, nats.CLOSED), make(chan struct{})
	h.status, h.stopped = status, stopped
	go func() {
		defer close(stopped)
		for range status { // until the last member leaves
			h.each((*watchQueue).signal)
		}
	}()
	return nil
}

func (h *watchHub) each(f func(*watchQueue)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for queue := range h.members {
		f(queue)
	}
}

func (h *watchHub) leave(nc *nats.Conn, queue *watchQueue) {
	h.mu.Lock()
	delete(h.members, queue)
	if len(h.members) > 0 {
		h.mu.Unlock()
		return
	}
	_ = h.beats.Unsubscribe() // of a connection that is closed there is none left
	nc.RemoveStatusListener(h.status)
	stopped := h.stopped
	h.mu.Unlock()
	<-stopped
}

// abandon ends the watches that nobody iterates. The others see the end of the client
// by themselves.
func (h *watchHub) abandon() {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.members))
	h.mu.Unlock()
	for _, abandon := range all {
		abandon() // which leaves the hub
	}
}

// alone calls f while no other watch is in it.
func (h *watchHub) alone(f func() error) error {
	h.probing.Lock()
	defer h.probing.Unlock()
	return f()
}

// connectionError is what a closed connection is to those who watch.
func connectionError(err error) error {
	return fmt.Errorf("%w: %w", kv.ErrClosed, err)
}
