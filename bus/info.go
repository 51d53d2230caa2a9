package bus

import "kvbus/kv"

// Info is the answer to an info: a JSON object with these fields and those of
// [kv.Info], side by side.
type Info struct {
	// Name and Version are those of the service.
	Name    string `json:"name"`
	Version string `json:"version"`
	// Prefix is the prefix of its subjects.
	Prefix string `json:"prefix"`
	// Uptime is how long the worker that answers has run, a Go duration.
	Uptime string `json:"uptime"`
	// MaxValueSize is the size of the largest value that can be written here,
	// in bytes: the limit of the store, or what the bus carries if that is less.
	MaxValueSize int64 `json:"max_value_size"`
	// EventsPublished counts the events that the worker that answers has published,
	// repeated ones too, and EventsLost those that it could not publish before they
	// were dropped: watchers saw a gap.
	EventsPublished uint64 `json:"events_published"`
	EventsLost      uint64 `json:"events_lost"`
	kv.Info
}
