package replicated_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv"
	"kvbus/kv/replicated"
)

// A worker that asks for no number of replicas leaves the log as it is; one that
// asks changes it, and says so.
func TestReplicas(t *testing.T) {
	s := bustest.StartCluster(t, server.Options{})[0]
	expect := func(worker *replicated.Store, want int) {
		t.Helper()
		info, err := worker.Info(bounded(t))
		if err != nil || info.Replicas != want || worker.Replicas() != want {
			t.Errorf("the store says that %d servers hold it, info %d, %v; want %d", worker.Replicas(), info.Replicas, err, want)
		}
		snapshots, stream := objects(t, s)
		status, err := snapshots.Status(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		if log := stream.CachedInfo().Config.Replicas; log != want || status.Replicas() != want {
			t.Errorf("the log has %d replicas, the snapshots have %d; want %d", log, status.Replicas(), want)
		}
	}
	var log bytes.Buffer
	opts := replicated.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	asked := opts
	asked.Replicas = 3
	store := open(t, s, asked)
	expect(store, 3)
	store.Close()

	byDefault := opts
	byDefault.NewReplicas = 1
	store = open(t, s, byDefault)
	expect(store, 3)
	store.Close()
	if strings.Contains(log.String(), "a stream was changed") {
		t.Errorf("somebody changed it: %s", log.String())
	}

	asked.Replicas = 1
	store = open(t, s, asked)
	expect(store, 1)
	store.Close()
	if !strings.Contains(log.String(), "from.replicas=3 from.max_bytes=-1 to.replicas=1") {
		t.Errorf("the change is not in the log: %s", log.String())
	}
}

func TestReplicasOfANewLog(t *testing.T) {
	s := bustest.StartCluster(t, server.Options{})[0]
	if got := open(t, s, replicated.Options{NewReplicas: 3}).Replicas(); got != 3 {
		t.Errorf("it is on %d servers", got)
	}
	if got := open(t, s, replicated.Options{Prefix: "other"}).Replicas(); got != 1 {
		t.Errorf("without a word it is on %d servers", got)
	}
}

// Workers that start together on the servers of a cluster all open the new store,
// also where the server that answers them has not heard yet what the others made.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	servers := bustest.StartCluster(t, server.Options{})
	for round := range 3 {
		var opening sync.WaitGroup
		for _, s := range servers {
			nc := bustest.Connect(t, s)
			opening.Go(func() {
				store, err := replicated.Open(bounded(t), nc, replicated.Options{Prefix: fmt.Sprint("kv", round), NewReplicas: 3})
				if err == nil {
					_, err = kv.Of(store).Increment(bounded(t), "n", 1)
					err = errors.Join(err, store.Close())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		opening.Wait()
	}
}

// Stores at prefixes of which one continues the other share a JetStream, and
// none has what is in the other's.
func TestPrefixesThatContinueOneAnother(t *testing.T) {
	s := startServer(t)
	var stores []*replicated.Store
	for _, prefix := range []string{"kv", "kv.live", "kv.log", "kv.log.live", "kv.mark"} {
		stores = append(stores, open(t, s, replicated.Options{Prefix: prefix}))
	}
	for i, store := range stores {
		for j := range 3 {
			if revision, err := kv.Of(store).Set(bounded(t), "k", "v"); err != nil || revision != uint64(j+1) {
				t.Errorf("store %d: write %d has the revision %d, %v", i, j, revision, err)
			}
		}
	}
	for i, store := range stores {
		select {
		case err := <-store.Failed():
			t.Errorf("store %d: %v", i, err)
		default:
		}
	}
}

// Any prefix that the bus takes is one of a store.
func TestPrefixes(t *testing.T) {
	s := startServer(t)
	for _, prefix := range []string{
		"team.kv", "a-b_c", "größe", "kv$.1$", "a{b}}", "a/b\\c:d",
		strings.Repeat("p", bus.MaxPrefixLength), strings.Repeat("p", bus.MaxPrefixLength-1) + "q",
		strings.Repeat("p.", bus.MaxPrefixLength/2-1) + "q", strings.Repeat("é", bus.MaxPrefixLength/2),
	} {
		if _, err := bus.NewSubjects(prefix); err != nil {
			t.Fatal(err)
		}
		store := open(t, s, replicated.Options{Prefix: prefix})
		if revision, err := kv.Of(store).Set(bounded(t), "k", "v"); err != nil || revision != 1 {
			t.Errorf("%s: revision %d, %v", prefix, revision, err)
		}
		snapshot(t, store)
	}
}

// A log whose records are sent elsewhere than to workers, or not at all, is mended.
func TestRepublication(t *testing.T) {
	s := startServer(t)
	store := open(t, s, replicated.Options{})
	if _, err := kv.Of(store).Set(bounded(t), "k", "v"); err != nil {
		t.Fatal(err)
	}
	store.Close()
	js, err := jetstream.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for name, republication := range map[string]*jetstream.RePublish{
		"not at all": nil,
		"elsewhere":  {Source: "$KVBUS.kv.*", Destination: "$KVBUS.kv.live.{{wildcard(1)}}"},
	} {
		_, stream := objects(t, s)
		want := stream.CachedInfo().Config.RePublish
		changed := stream.CachedInfo().Config
		changed.RePublish = republication
		if _, err := js.UpdateStream(bounded(t), changed); err != nil {
			t.Fatal(err)
		}
		store := open(t, s, replicated.Options{})
		if entry, err := kv.Of(store).Get(bounded(t), "k"); err != nil || entry.Value != "v" {
			t.Errorf("%s: %+v, %v", name, entry, err)
		}
		store.Close()
		_, stream = objects(t, s)
		if got := stream.CachedInfo().Config.RePublish; got == nil || *got != *want {
			t.Errorf("%s: it is %+v; want %+v", name, got, want)
		}
	}
}

// What no wait mends is an error at once.
func TestWhatJetStreamCanNotDo(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 20})
	for name, test := range map[string]struct {
		opts replicated.Options
		want string
	}{
		"replicas on one server": {replicated.Options{Replicas: 3}, "replicas > 1 not supported in non-clustered mode"},
		"more than there is":     {replicated.Options{MaxLogBytes: 2 << 20}, "insufficient storage resources available: the log may take 2097152 bytes"},
		"snapshots likewise":     {replicated.Options{MaxSnapshotsBytes: 2 << 20}, "insufficient storage resources available: the snapshots may take 2097152 bytes (store.snapshots_max_bytes)"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := bounded(t)
			store, err := replicated.Open(ctx, bustest.Connect(t, s), test.opts)
			if err == nil {
				store.Close()
				t.Fatal("it opens")
			}
			if ctx.Err() != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v; want one with %q", err, test.want)
			}
		})
	}
}

// Where an account bounds each stream, the error names the setting.
func TestBoundsOfAnAccount(t *testing.T) {
	for name, test := range map[string]struct {
		account string
		opts    replicated.Options
		want    string
	}{
		"a log that is too large":     {"disk_max_stream_bytes: 1MB", replicated.Options{MaxLogBytes: 2 << 20}, "the log may take 2097152 bytes (store.log_max_bytes)"},
		"a log without a bound":       {"max_bytes_required: true", replicated.Options{}, "the log may take any number of bytes (store.log_max_bytes)"},
		"snapshots without one":       {"max_bytes_required: true", replicated.Options{MaxLogBytes: 1 << 20}, "the snapshots may take any number of bytes (store.snapshots_max_bytes)"},
		"snapshots that are too many": {"disk_max_stream_bytes: 1MB", replicated.Options{MaxLogBytes: 1 << 20, MaxSnapshotsBytes: 2 << 20}, "the snapshots may take 2097152 bytes (store.snapshots_max_bytes)"},
	} {
		t.Run(name, func(t *testing.T) {
			var opts server.Options
			text := fmt.Sprintf("accounts: {A: {jetstream: {%s}, users: [{user: worker, password: x}]}}", test.account)
			if err := opts.ProcessConfigString(text); err != nil {
				t.Fatal(err)
			}
			opts.JetStream, opts.StoreDir = true, t.TempDir()
			ctx := bounded(t)
			store, err := replicated.Open(ctx, bustest.Connect(t, bustest.StartServer(t, opts), nats.UserInfo("worker", "x")), test.opts)
			if err == nil {
				store.Close()
				t.Fatal("it opens")
			}
			if ctx.Err() != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v; want one with %q", err, test.want)
			}
		})
	}
}

// A log opens on a server that has less room now than it has promised once, as
// where others have filled the disk.
func TestLessRoomThanPromised(t *testing.T) {
	dir := t.TempDir()
	opts := replicated.Options{MaxLogBytes: 8 << 20, MaxSnapshotsBytes: 8 << 20}
	for _, room := range []int64{32 << 20, 4 << 20} {
		s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: dir, JetStreamMaxStore: room})
		store := open(t, s, opts)
		if _, err := kv.Of(store).Set(bounded(t), "k", "v"); err != nil {
			t.Error(err)
		}
		store.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// A log that begins too late, with no snapshot, is told from one that takes
// nothing: the first never mends.
func TestLogThatTakesNothing(t *testing.T) {
	s := startServer(t)
	opts := keepsLittle
	opts.Timeout = 300 * time.Millisecond
	store, proxy := openThrough(t, s, opts)
	proxy.Redirect("127.0.0.1:1") // nobody is there
	if _, err := kv.Of(store).Set(bounded(t), "k", "v"); !errors.Is(err, replicated.ErrNotTaken) {
		t.Errorf("without a server: %v", err)
	}
	if _, err := kv.Of(store).Get(bounded(t), "k"); !errors.Is(err, replicated.ErrNotTaken) || !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("without a server: %v", err)
	}
	_, stream := objects(t, s)
	if err := stream.Purge(bounded(t), jetstream.WithPurgeSequence(1000)); err != nil {
		t.Fatal(err)
	}
	_, err := replicated.Open(bounded(t), bustest.Connect(t, s), opts)
	if !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, replicated.ErrNotTaken) {
		t.Errorf("without its beginning: %v", err)
	}
}

// A stream whose settings lose messages, refuse them or acknowledge what is not
// stored is refused, and the error says which it is.
func TestForeignSettings(t *testing.T) {
	for _, name := range []string{"KVBUS_kv", "OBJ_KVBUS_kv"} {
		for setting, change := range map[string]func(*jetstream.StreamConfig){
			"subjects":             func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "more") },
			"discard":              func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
			"max_msgs":             func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 },
			"max_msgs_per_subject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1000 },
			"max_age":              func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = time.Minute, time.Minute },
			"max_msg_size":         func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 },
			"no_ack":               func(c *jetstream.StreamConfig) { c.NoAck = true },
			"deny_purge":           func(c *jetstream.StreamConfig) { c.DenyPurge, c.AllowRollup = true, false },
		} {
			t.Run(name+"/"+setting, func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				nc := bustest.Connect(t, s)
				closeStore(t, open(t, s, keepsLittle))
				js, err := jetstream.New(nc)
				if err != nil {
					t.Fatal(err)
				}
				stream, err := js.Stream(bounded(t), name)
				if err != nil {
					t.Fatal(err)
				}
				config := stream.CachedInfo().Config
				change(&config)
				if _, err := js.UpdateStream(bounded(t), config); err != nil {
					t.Fatal(err)
				}
				store, err := replicated.Open(bounded(t), nc, keepsLittle)
				if err == nil {
					closeStore(t, store)
				}
				if !errors.Is(err, kv.ErrInvalidArgument) || !strings.Contains(err.Error(), fmt.Sprintf("the stream %s has %s: ", name, setting)) {
					t.Errorf("it opens with %v", err)
				}
			})
		}
	}
}
