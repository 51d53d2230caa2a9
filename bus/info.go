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
	kv.Info
}
