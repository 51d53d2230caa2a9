// Package service answers requests for a [kv.Store] on a NATS connection. It is
// a NATS micro service named kvbus: the nats command lists it with "nats micro
// ls" and shows what its endpoints do with "nats micro stats".
//
// # Order and queues
//
// Each operation has a queue, which its subscriptions fill and a worker of its
// own empties: commands of one connection on one operation take effect in the
// order in which they were sent; clear without a prefix and with one are two here.
// Keys, scan, replay and info, which may take long and change nothing, have several
// workers. None of them waits with a request until the store is fresh enough: however
// many requests there are, without a log all end after the time that one takes.
// A queue is bounded; a request that finds it full is answered "overloaded" at once.
//
// # Failures
//
// A request that makes the store panic is answered "internal", where it had no
// answer before; the log has the details, and no other request is harmed. An
// answer that the bus does not carry becomes the error "value_too_large".
//
// # One store for a prefix
//
// [Start] makes sure that no other worker serves the same prefix with another
// store, and fails with [ErrPrefixTaken] if one does. Any number of workers may
// serve one that they share.
//
// # Nodes of a cluster
//
// A server that keeps requests to itself hands those of its clients to its own
// worker alone. A [Relay] takes them while that does not serve, hands them on to
// services elsewhere, and hands the answers back.
//
// # Reply subjects
//
// NATS lets who asks name any reply subject, and a service may publish on most. So a
// request is dropped whose answer would be a request, an event or a call of an API:
// see [bus.Subjects.ValidateReply].
//
// # Shutdown
//
// [Service.Stop] takes no more requests, answers those that were taken, and
// returns when all is answered, or when its context ends. While the connection
// is away it waits for the store alone: no request comes, and an answer that
// can't be sent is dropped.
package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"kvbus/bus"
	"kvbus/kv"
)

// Defaults of [Options].
const (
	DefaultMaxPending      = 4096
	DefaultMaxPendingBytes = 64 << 20
	DefaultClaimWait       = 300 * time.Millisecond
)

// flushTimeout is how long a round trip to the server may take, unless answers are
// waited for.
const flushTimeout = 5 * time.Second

// A Submitter is a store that takes commands without making their sender wait.
// The service uses it where the store has it; it keeps a worker of an operation
// free while a command is under way.
type Submitter interface {
	// Submit carries out a command as [kv.Store.Do] does, and calls done once,
	// from any goroutine, with what Do would return. Commands that one goroutine
	// submits one after the other take effect in that order. Submit and done
	// must not wait for each other's callers.
	Submit(ctx context.Context, cmd kv.Command, done func(kv.Result, error))
}

// A Fresher is a store whose reads may have to wait until its state is fresh
// enough. The service uses it where the store has it; it keeps a worker of an
// operation free meanwhile, and asks for an eventual read then.
type Fresher interface {
	// Fresh calls done once, from any goroutine, when the answer to an eventual
	// read is as fresh as opts ask for, or with the error of a read with opts.
	Fresh(ctx context.Context, opts kv.ReadOptions, done func(error))
}

// A Describer is a store that can be described without waiting for others. The
// service uses it where the store has it, to start when they are away, and to tell
// what a [Fresher] is when that is fresh.
type Describer interface {
	// Describe returns what [kv.Store.Info] does, as this worker knows it.
	Describe() (kv.Info, error)
}

// Options configure a service. The zero value means the defaults.
type Options struct {
	// Subjects are those to serve; the default is [bus.DefaultPrefix].
	Subjects bus.Subjects
	// Relayed makes the service take what a [Relay] of another worker hands on.
	Relayed bool
	// WorkerName tells this worker from others for people.
	WorkerName string
	// Version is the version of the program, a semantic version.
	Version string
	// MaxPending and MaxPendingBytes bound the requests on each operation that
	// were taken and not yet answered, by number and by the bytes of their
	// messages.
	MaxPending      int
	MaxPendingBytes int
	// ClaimWait is how long a worker waits to hear of another one that serves
	// the same prefix with another store.
	ClaimWait time.Duration
	// EventCounts tells how many events this worker has published and how many were
	// lost, for [bus.Info]; nil where it publishes none.
	EventCounts func() (published, lost uint64)
	// OnLost is called, once and from a goroutine of its own, if another
	// worker turns out to serve the same prefix with another store while this
	// one does. The service goes on until it is stopped, which is what OnLost
	// should bring about.
	OnLost func(error)
	// Logger gets what goes wrong; the default discards it.
	Logger *slog.Logger
}

// A Service answers requests until it is stopped.
type Service struct {
	nc       *nats.Conn
	store    kv.Store
	opts     Options
	subjects bus.Subjects
	logger   *slog.Logger

	// submit hands a command to the store, as [Submitter] says.
	submit func(ctx context.Context, cmd kv.Command, done func(kv.Result, error))

	// fresh waits for a state that a read may be answered from, as [Fresher]
	// says; nil where there is nothing to wait for.
	fresh func(ctx context.Context, opts kv.ReadOptions, done func(error))

	discovery discovery
	claim     *claim
	requests  subscriptions
	refusals  refusals
	release   func()      // of the connection's errors
	serving   atomic.Bool // it has started
	lanes     []*lane
	workers   sync.WaitGroup

	described kv.Info      // the store, at the start
	told      atomic.Int64 // the limit that the log has
}

// Start serves store on nc. It returns once requests are taken. The connection
// and the store stay the caller's, who closes them after Stop.
func Start(ctx context.Context, nc *nats.Conn, store kv.Store, opts Options) (*Service, error) {
	s, err := newService(nc, store, opts)
	if err != nil {
		return nil, err
	}
	s.release = s.noteRefusals()
	if err := s.start(ctx); err != nil {
		s.abandon()
		return nil, err
	}
	s.serving.Store(true)
	return s, nil
}

func newService(nc *nats.Conn, store kv.Store, opts Options) (*Service, error) {
	opts.MaxPending = cmp.Or(opts.MaxPending, DefaultMaxPending)
	opts.MaxPendingBytes = cmp.Or(opts.MaxPendingBytes, DefaultMaxPendingBytes)
	opts.ClaimWait = cmp.Or(opts.ClaimWait, DefaultClaimWait)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Subjects == (bus.Subjects{}) {
		var err error
		if opts.Subjects, err = bus.NewSubjects(bus.DefaultPrefix); err != nil {
			return nil, err
		}
	}
	s := &Service{
		nc:       nc,
		store:    store,
		opts:     opts,
		subjects: opts.Subjects,
		logger:   opts.Logger,
		requests: subscriptions{nc: nc},
	}
	if submitter, ok := store.(Submitter); ok {
		s.submit = submitter.Submit
	} else {
		s.submit = func(ctx context.Context, cmd kv.Command, done func(kv.Result, error)) {
			done(store.Do(ctx, cmd))
		}
	}
	if fresher, ok := store.(Fresher); ok {
		s.fresh = fresher.Fresh
	}
	id := nuid.Next()
	s.discovery = discovery{
		identity: micro.ServiceIdentity{
			Name: Name, ID: id, Version: opts.Version,
			Metadata: map[string]string{"prefix": s.subjects.Prefix(), "worker": opts.WorkerName},
		},
		started: time.Now().UTC(),
		control: subscriptions{nc: nc},
	}
	for _, op := range bus.Ops() {
		lane := s.newLane(op)
		s.lanes = append(s.lanes, lane)
		s.discovery.endpoints = append(s.discovery.endpoints, lane.endpoints...)
	}
	return s, nil
}

func (s *Service) start(ctx context.Context) error {
	info, err := s.describe(ctx)
	if err != nil {
		return fmt.Errorf("ask the store what it is: %w", err)
	}
	s.described = info
	s.discovery.identity.Metadata["store"] = info.Store
	before := s.nc.LastError()
	s.claim = newClaim(s.nc, s.subjects.Prefix(), s.ID(), info.Clustered, s.opts.OnLost)
	if err := s.subjects.ValidateReply(s.claim.inbox); err != nil { // no other worker would answer
		return fmt.Errorf("the connection's inbox prefix: %w", err)
	}
	err = s.quietly(ctx, before, func() error {
		if err := s.discovery.listen(s.subjects, s.claim); err != nil {
			return err
		}
		return s.claim.askAll()
	})
	if err != nil {
		return err
	}
	if err := s.claim.settle(ctx, s.opts.ClaimWait); err != nil {
		return err
	}
	s.told.Store(info.Limits.MaxValueSize)
	s.tellLimit()
	err = s.quietly(ctx, before, func() error {
		for _, e := range s.discovery.endpoints {
			if err := e.subscribe(); err != nil {
				return err
			}
		}
		return nil
	})
	for _, l := range s.lanes {
		l.start() // also where it fails: what was taken is answered
	}
	return err
}

// quietly does something that the server may refuse, and fails if it does. Nobody is
// answered before the server has told: the connection keeps its last error only, and
// answers go where others want them.
func (s *Service) quietly(ctx context.Context, before error, do func() error) error {
	s.discovery.answering.Lock()
	defer s.discovery.answering.Unlock()
	if err := do(); err != nil {
		return err
	}
	return confirm(ctx, s.nc, before, func(subject string) bool {
		return subject == s.claim.inbox || s.subjects.ValidateReply(subject) != nil
	})
}

func (s *Service) describe(ctx context.Context) (kv.Info, error) {
	if describer, ok := s.store.(Describer); ok {
		return describer.Describe()
	}
	return s.store.Info(ctx)
}

// Store describes the store as it was at the start.
func (s *Service) Store() kv.Info { return s.described }

// flush makes a round trip to the server.
func flush(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	return nc.FlushWithContext(ctx)
}

// abandon undoes a start that failed half way.
func (s *Service) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		s.logger.Warn("could not undo the start of the service", "error", err)
	}
}

// ID returns the id of this worker in the discovery of services.
func (s *Service) ID() string { return s.discovery.identity.ID }

// Stats returns what the endpoints did so far.
func (s *Service) Stats() micro.Stats { return s.discovery.stats() }

// Recheck does what is due when the connection was away, or leads to another
// server, and now and then, as servers may have lost each other for a while: it connects
// anew where the server takes subscriptions again that it has refused, says
// in the log if this one carries values of another size, and compares this worker's
// claim on its prefix with those of others again. [Options.OnLost] is called if the
// claim is lost.
func (s *Service) Recheck(ctx context.Context) error {
	if renewed, err := s.renew(ctx); renewed || err != nil {
		return err // who calls does so again when it is connected
	}
	s.tellLimit()
	if err := s.claim.askAll(); err != nil {
		return err
	}
	if err := flush(ctx, s.nc); err != nil {
		return err
	}
	err := s.claim.settle(ctx, s.opts.ClaimWait)
	if errors.Is(err, ErrPrefixTaken) {
		return nil // told by OnLost
	}
	// Only now, as the server may just have refused what was made again.
	if err == nil && s.nc.IsConnected() && s.refusals.mended() {
		s.logger.Info("the server takes all subscriptions of this worker again")
	}
	return err
}
