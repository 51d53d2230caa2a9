package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// ErrPrefixTaken: another worker serves the prefix with another store.
var ErrPrefixTaken = errors.New("prefix taken")

// The claim on a prefix, as it travels in the headers of a $SRV.PING and in the
// metadata of its answers.
const (
	claimPrefix  = "kvbus-prefix"
	claimSince   = "kvbus-claimed-at"
	claimSettled = "kvbus-settled"
	claimShared  = "kvbus-shared"
	claimID      = "kvbus-id"
)

// A claim makes sure that one store alone is served under a prefix: requests
// that a queue group spreads over two of them would find half of the keys. The
// workers of a shared store have no quarrel with each other, but with one that
// has a store of its own, as two of those have.
//
// A worker that wants a prefix first listens for pings and then sends one; a
// ping and its answer both carry a claim. So of two workers at least one gets the
// other's ping, and then both compare their claims: a worker that has settled stays,
// otherwise the earlier one does. The other one leaves. Who asks whether a claim is
// better settles after the answer only, so both compare with one that has not.
//
// Anybody who may look for services may send a ping. So one with a better claim is
// only a reason to ask the worker that it names; what is answered counts.
type claim struct {
	nc     *nats.Conn
	prefix string
	id     string
	shared bool   // other workers may serve the same store
	inbox  string // for the answers to pings

	mu    sync.Mutex
	since int64 // Unix nanoseconds
	// settled: the worker serves; it heard of no better claim in time.
	settled bool
	// asking: a worker that told of a better claim was asked whether it has it.
	asking bool
	// lost is the worker with the better claim; nil while there is none.
	lost *rival
	// beaten is closed when there is one.
	beaten chan struct{}
	// onLost is called once, when the claim is lost after it had settled.
	onLost func(error)
}

// A rival is what is known of another worker with a claim on the same prefix.
type rival struct {
	shared  bool
	settled bool
	since   int64
	id      string
}

func newClaim(nc *nats.Conn, prefix, id string, shared bool, onLost func(error)) *claim {
	return &claim{
		nc: nc, prefix: prefix, id: id, shared: shared, inbox: nc.NewInbox(),
		since: time.Now().UnixNano(), beaten: make(chan struct{}), onLost: onLost,
	}
}

// describe adds the claim to the fields of a ping or its answer.
func (c *claim) describe(set func(key, value string)) {
	set(claimPrefix, c.prefix)
	set(claimID, c.id)
	set(claimSince, strconv.FormatInt(c.since, 10))
	set(claimSettled, strconv.FormatBool(c.settled))
	set(claimShared, strconv.FormatBool(c.shared))
}

// meet adds the claim to the metadata of the answer to a ping. Where that has a better
// claim in its header, it asks whose that is.
func (c *claim) meet(header nats.Header, metadata map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.describe(func(key, value string) { metadata[key] = value })
	if other, better := c.compare(header.Get); better && isToken(other.id) {
		c.asking = true
		_ = c.ask(other.id) // the connection reports its own failures
	}
}

// isToken reports whether an id can be a token of a subject, as those of workers are.
func isToken(id string) bool {
	return id != "" && len(id) <= 64 && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// compare returns the worker that has made a claim, and whether that is better than
// this one, for which there was none before. The lock is held.
func (c *claim) compare(get func(string) string) (other rival, better bool) {
	if get(claimPrefix) != c.prefix || get(claimID) == c.id {
		return rival{}, false
	}
	since, err := strconv.ParseInt(get(claimSince), 10, 64)
	if err != nil {
		return rival{}, false
	}
	other = rival{get(claimShared) == "true", get(claimSettled) == "true", since, get(claimID)}
	if other.shared && c.shared || c.lost != nil {
		return other, false
	}
	return other, other.better(rival{c.shared, c.settled, c.since, c.id})
}

// better reports whether r goes before other.
func (r rival) better(other rival) bool {
	if r.settled != other.settled {
		return r.settled
	}
	return cmp.Or(cmp.Compare(r.since, other.since), cmp.Compare(r.id, other.id)) < 0
}

// ask asks a worker for its claim, all of them where id is empty. The lock is held.
func (c *claim) ask(id string) error {
	subject, err := micro.ControlSubject(micro.PingVerb, Name, id)
	if err != nil {
		return err
	}
	ping := nats.NewMsg(subject)
	ping.Reply = c.inbox
	c.describe(ping.Header.Set)
	return c.nc.PublishMsg(ping)
}

// askAll asks all workers for their claims.
func (c *claim) askAll() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ask("")
}

// hear notes a better claim in an answer.
func (c *claim) hear(m *nats.Msg) {
	var answer micro.Ping
	if json.Unmarshal(m.Data, &answer) != nil {
		return // not a service's answer
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	other, better := c.compare(func(key string) string { return answer.Metadata[key] })
	if !better {
		return
	}
	c.lost = &other
	close(c.beaten)
	if c.settled && c.onLost != nil {
		go c.onLost(c.err())
	}
}

// settle waits for the answers of workers that were asked, and settles if none is
// better; otherwise it fails with [ErrPrefixTaken]. Where one was asked meanwhile it
// waits once more: that one compares with a claim that had not settled.
func (c *claim) settle(ctx context.Context, wait time.Duration) error {
	for last := false; ; last = true {
		select {
		case <-c.beaten:
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		if settled, err := c.tryToSettle(last); settled || err != nil {
			return err
		}
	}
}

func (c *claim) tryToSettle(last bool) (settled bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost != nil {
		return false, c.err()
	}
	if c.asking && !c.settled && !last {
		return false, nil
	}
	c.settled = true
	return true, nil
}

// err says to whom the claim was lost. The lock is held.
func (c *claim) err() error {
	store := "a store of its own"
	if c.lost.shared {
		store = "a shared store, which this one does not use (--replicated)"
	}
	return fmt.Errorf("%w: worker %s already serves the prefix %q on this NATS with %s, and two stores would each have half of the keys; stop it, give this one another prefix (--prefix), or connect it elsewhere (--nats-url)",
		ErrPrefixTaken, c.lost.id, c.prefix, store)
}
