package replicated

import (
	"errors"
	"math"

	"kvbus/kv"
	"kvbus/kv/machine"
)

// A snapshot is the state after one log record: a header, what is remembered of
// requests in the order of their commands, and the entries in the order of the
// bytes of their keys.
//
// # Format
//
// A snapshot is the magic bytes "kvbs", a byte with the version of the format,
// and blocks. A block is its length and the CRC-32C of its body, each as four
// bytes, the lowest first, and its body: a message Block in the wire format of
// protobuf, as strict as in a log record.
//
//	syntax = "proto3";
//
//	message Block {
//	  // The first block has the header, the last one the end, and those between
//	  // them one request or more, and then one entry or more.
//	  Header header = 1;
//	  repeated Entry entries = 2;
//	  End end = 3;
//	  repeated Request requests = 4; // since version 2
//	}
//
//	message Header {
//	  uint64 sequence = 1;
//	  int64 time = 2; // Unix nanoseconds
//	  uint64 revision = 3;
//	  uint64 keys = 4;
//	  Limits limits = 5; // as in a log record
//	  repeated Session sessions = 6;
//	}
//
//	message Session {
//	  string worker = 1;
//	  uint64 number = 2;
//	  int64 seen = 3; // Unix nanoseconds
//	}
//
//	message Request {
//	  bytes id = 1;      // 16 bytes, as content
//	  bytes content = 2;
//	  int64 time = 3;    // Unix nanoseconds
//	  uint64 revision = 4;
//	  uint64 deadline = 5; // Unix nanoseconds; 0 for none
//	  sint64 number = 6;
//	  bool applied = 7;
//	  uint32 failure = 8; // as in package machine
//	}
//
//	message Entry {
//	  bytes key = 1;
//	  bytes value = 2;
//	  uint64 revision = 3;
//	  uint64 deadline = 4; // Unix nanoseconds; 0 for none
//	}
//
//	message End {
//	  uint64 keys = 1;
//	  uint32 checksum = 2; // the CRC-32C of all that is before the last block
//	}
//
// The last version is written, all are read.
const (
	snapshotMagic   = "kvbs"
	snapshotVersion = 2
	blockHeaderSize = 4 + 4

	// blockTarget is the size of a block of entries: small enough to be held
	// without thought, large enough that what is around it does not count.
	// An entry that is larger has a block of its own.
	blockTarget = 64 << 10
	// maxBlockSize is the most that a message of NATS carries, and so the most that
	// a value has. What a damaged length says is not made room for, but what comes.
	maxBlockSize = math.MaxInt32

	blockHeader   = 1
	blockEntries  = 2
	blockEnd      = 3
	blockRequests = 4
)

// errSnapshot is wrapped by the errors of reading a snapshot that is damaged,
// or no snapshot of this version. An error of the reader below is not wrapped
// by it: the snapshot may be sound.
var errSnapshot = errors.New("unreadable snapshot")

type snapshotHeader struct {
	Sequence uint64 // of the last log record that is in the snapshot
	Time     int64  // the machine's time, Unix nanoseconds
	Revision uint64
	Keys     uint64 // entries that follow
	Limits   kv.Limits
	Sessions []session // of the workers

	// Requests follow the header.
	Requests []machine.Request
}

// A session is what the state has about a worker.
type session struct {
	Worker string
	Number uint64 // of its last batch
	Seen   int64  // when that was, Unix nanoseconds
}

// sessions returns the sessions of the header by their workers.
func (h *snapshotHeader) sessions() sessions {
	byWorker := make(sessions, len(h.Sessions))
	for _, session := range h.Sessions {
		byWorker[session.Worker] = session
	}
	return byWorker
}
