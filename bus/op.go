package bus

import (
	"fmt"

	"kvbus/kv"
)

// An Op is an operation that a client can ask for.
type Op uint8

// The operations, in the order in which [Ops] lists them.
const (
	OpGet Op = iota + 1
	OpSet
	OpCompareAndSwap
	OpIncrement
	OpDelete
	OpExists
	OpTTL
	OpTouch
	OpKeys
	OpScan
	OpReplay
	OpClear
	OpInfo
)

// A Scope is what the subject of an operation carries after its name.
type Scope uint8

// The scopes of an operation.
const (
	// ScopeNone: nothing follows.
	ScopeNone Scope = iota
	// ScopeKey: a key follows.
	ScopeKey
	// ScopePrefix: a prefix of keys may follow.
	ScopePrefix
)

// opSpec is one row of the table of operations. The texts are read by people,
// in the metadata of the service's endpoints.
type opSpec struct {
	name        string
	scope       Scope
	description string
	body, reply string
	// command is what a store does for the operation, 0 for a read.
	command kv.Op
	// stream: the answer is a stream of replies that an end message closes.
	stream bool
	// honoured are the headers that mean something here. refused are those that
	// don't, but that a sender adds to guard or to narrow the operation: to
	// ignore them would do more than was asked. All others are ignored.
	honoured, refused headerSet
}

const (
	traceHeaders  = 1<<idTraceParent | 1<<idTraceState
	lifeHeaders   = 1<<idTTL | 1<<idKeepTTL
	expectHeaders = 1<<idExpected | 1<<idExpectedLength | 1<<idExpectedRevision
	readHeaders   = 1<<idConsistency | 1<<idMinRevision
	pageHeaders   = 1<<idLimit | 1<<idCursor | 1<<idFilter
	// writeHeaders are those of all operations that write.
	writeHeaders = 1<<idRequestID | traceHeaders
)

var opSpecs = [...]opSpec{
	OpGet: {
		name: "get", scope: ScopeKey, description: "read a value",
		body: "empty", reply: "the value, raw",
		honoured: readHeaders,
	},
	OpSet: {
		name: "set", scope: ScopeKey, description: "write a value",
		body: "the value, raw", reply: "the new revision, decimal",
		command:  kv.OpSet,
		honoured: lifeHeaders | 1<<idExpectedRevision | writeHeaders,
		refused:  1<<idExpected | 1<<idExpectedLength,
	},
	OpCompareAndSwap: {
		name: "cas", scope: ScopeKey, description: "write a value if the current state is the expected one; create, if no expectation is given",
		body: "the new value, raw; after the expected one if KV-Expected-Length is given", reply: "true or false",
		command:  kv.OpCompareAndSwap,
		honoured: lifeHeaders | expectHeaders | writeHeaders,
	},
	OpIncrement: {
		name: "incr", scope: ScopeKey, description: "add to a number atomically, saturating at both ends of int64",
		body: "what to add, a signed 64-bit decimal; empty means 1", reply: "the new number, decimal",
		command:  kv.OpIncrement,
		honoured: lifeHeaders | writeHeaders,
		refused:  expectHeaders,
	},
	OpDelete: {
		name: "delete", scope: ScopeKey, description: "delete a key",
		body: "empty", reply: "true if a live key was removed, else false",
		command:  kv.OpDelete,
		honoured: 1<<idExpectedRevision | writeHeaders,
		refused:  1<<idExpected | 1<<idExpectedLength,
	},
	OpExists: {
		name: "exists", scope: ScopeKey, description: "tell whether a key is live",
		body: "empty", reply: "true or false",
		honoured: readHeaders,
	},
	OpTTL: {
		name: "ttl", scope: ScopeKey, description: "read the time that a key has left",
		body: "empty", reply: "a Go duration, or never",
		honoured: readHeaders,
	},
	OpTouch: {
		name: "touch", scope: ScopeKey, description: "move the deadline of a key and leave its value",
		body: "a Go duration, whole seconds, or never", reply: "true, or false where no live key is there",
		command:  kv.OpTouch,
		honoured: writeHeaders,
		refused:  expectHeaders,
	},
	OpKeys: {
		name: "keys", scope: ScopePrefix, description: "list live keys, all or those under a prefix",
		body: "empty", reply: "keys sorted by bytes, one a line",
		honoured: readHeaders | pageHeaders,
	},
	OpScan: {
		name: "scan", scope: ScopePrefix, description: "list live entries with their values, all or those under a prefix",
		body: "empty", reply: "a stream of replies, an entry each, and an end message",
		stream:   true,
		honoured: readHeaders | pageHeaders | 1<<idKeysOnly,
	},
	OpReplay: {
		name: "replay", scope: ScopePrefix, description: "list the events after a revision, all or those under a prefix",
		body: "empty", reply: "a stream of replies, an event each, and an end message",
		stream:   true,
		honoured: readHeaders | pageHeaders | 1<<idFromRevision,
	},
	OpClear: {
		name: "clear", scope: ScopePrefix, description: "delete all keys, or those under a prefix",
		body: "empty", reply: "how many keys were removed, decimal",
		command:  kv.OpClear,
		honoured: writeHeaders,
		refused:  expectHeaders | pageHeaders,
	},
	OpInfo: {
		name: "info", scope: ScopeNone, description: "describe the store and the service",
		body: "empty", reply: "a JSON object",
		honoured: readHeaders,
	},
}

// Ops returns all operations.
func Ops() []Op {
	ops := make([]Op, 0, len(opSpecs)-1)
	for o := OpGet; o <= OpInfo; o++ {
		ops = append(ops, o)
	}
	return ops
}

// spec returns the row of o; that of no operation for an o that is none.
func (o Op) spec() *opSpec {
	if int(o) >= len(opSpecs) {
		return &opSpecs[0]
	}
	return &opSpecs[o]
}

// String returns the name of the operation in subjects, such as "get".
func (o Op) String() string {
	if name := o.spec().name; name != "" {
		return name
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// Scope returns what the subject carries after the name.
func (o Op) Scope() Scope { return o.spec().scope }

// Description says in a line what the operation does.
func (o Op) Description() string { return o.spec().description }

// Body says what the body of a request is.
func (o Op) Body() string { return o.spec().body }

// Reply says what the body of the reply is.
func (o Op) Reply() string { return o.spec().reply }

// Writes reports whether the operation may change the store. A request for it
// decodes to a [kv.Command].
func (o Op) Writes() bool { return o.spec().command != 0 }

// Streams reports whether the answer is a stream of replies.
func (o Op) Streams() bool { return o.spec().stream }

// Headers returns the names of the headers that mean something in a request
// for the operation.
func (o Op) Headers() []string {
	var names []string
	for id, name := range headerNames {
		if o.spec().honoured.has(headerID(id)) {
			names = append(names, name)
		}
	}
	return names
}

// opOf returns the operation that a valid command is on the wire, 0 where the
// wire has none.
func opOf(command kv.Op) Op {
	for o := OpGet; o <= OpInfo; o++ {
		if o.spec().command == command {
			return o
		}
	}
	return 0
}
