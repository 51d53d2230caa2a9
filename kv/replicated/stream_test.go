package replicated_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

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
	if strings.Contains(log.String(), "the log was changed") {
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

// What no wait mends is an error at once.
func TestWhatJetStreamCanNotDo(t *testing.T) {
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 20})
	for name, test := range map[string]struct {
		opts replicated.Options
		want string
	}{
		"replicas on one server": {replicated.Options{Replicas: 3}, "replicas > 1 not supported in non-clustered mode"},
		"more than there is":     {replicated.Options{MaxLogBytes: 2 << 20}, "insufficient storage resources available: the log may take 2097152 bytes"},
		"snapshots likewise":     {replicated.Options{MaxSnapshotsBytes: 2 << 20}, "insufficient storage resources available"},
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
