package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/bus/embedded"
)

// askForLog asks for the stream of the tests.
func askForLog(t *testing.T, s *embedded.Server) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(inProcess(t, s))
	if err != nil {
		t.Fatal(err)
	}
	bustest.MakeStream(t, js, jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log"}})
	return js
}

// stored returns a store directory with a stream of some messages, which is in dir.
func stored(t *testing.T, opts embedded.Options) (_ embedded.Options, dir string) {
	t.Helper()
	opts.JetStream, opts.StoreDir = true, t.TempDir()
	s := start(t, opts)
	js := askForLog(t, s)
	publish(t, js, 1)
	publish(t, js, 2)
	shutdown(t, s)
	return opts, filepath.Join(opts.StoreDir, "jetstream", "$G", "streams", "LOG")
}

// holds fails unless the server that opts describe has the stream of [stored].
func holds(t *testing.T, opts embedded.Options) {
	t.Helper()
	s := start(t, opts)
	js, err := jetstream.New(inProcess(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "LOG")
	if err != nil {
		t.Fatal(err)
	}
	if count := stream.CachedInfo().State.Msgs; count != 2 {
		t.Errorf("there are %d messages, want 2", count)
	}
	shutdown(t, s)
}

// files returns the content of all files in a directory, by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		found[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func requireFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if got := files(t, dir); !maps.Equal(got, want) {
		t.Errorf("of the files %q there are %q", want, got)
	}
}

func requireNothingKept(t *testing.T, opts embedded.Options) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(opts.StoreDir, "kvbus.kept")); !os.IsNotExist(err) {
		t.Errorf("streams are kept twice: %v", err)
	}
}

// What nats-server fails to read, it would remove, also where the start fails for
// another reason.
func TestStreamThatCanNotBeRead(t *testing.T) {
	t.Parallel()
	opts, dir := stored(t, embedded.Options{})
	holder, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	bad := filepath.Join(dir, "msgs", "2.blk")
	if err := os.Mkdir(bad, 0o700); err != nil { // an error for who reads it
		t.Fatal(err)
	}
	before := files(t, dir)
	for _, listen := range []string{anyPort, holder.Addr().String(), anyPort} {
		opts.Listen = listen
		requireIn(t, refused(t, opts), "the stream LOG can't be read", dir+" is left as it was", "2.blk")
		requireFiles(t, dir, before)
		requireNothingKept(t, opts)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	holds(t, opts)
	requireNothingKept(t, opts)
}

// Where it is certain before, the server is not even started.
func TestBlockThatCanNotBeRead(t *testing.T) {
	t.Parallel()
	opts, dir := stored(t, embedded.Options{})
	before := files(t, dir)
	bad := filepath.Join(dir, "msgs", "2.blk")
	if err := os.Symlink("/proc/self/mem", bad); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(bad); err == nil || os.IsNotExist(err) {
		t.Skipf("there is no file with errors here: %v", err)
	}
	requireIn(t, refused(t, opts), "store directory", bad)
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	requireFiles(t, dir, before)
	holds(t, opts)
}

// Another user's files are told from a log that is broken, and are left alone.
func TestStreamOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	opts, dir := stored(t, embedded.Options{})
	before := files(t, dir)
	for path, mode := range map[string]fs.FileMode{
		filepath.Join(dir, "msgs", "1.blk"): 0,
		filepath.Join(dir, "msgs"):          0o500,
		dir:                                 0o500,
		filepath.Dir(dir):                   0o500,
		filepath.Join(opts.StoreDir, "jetstream", "$G"): 0,
	} {
		info, err := os.Stat(path)
		if err == nil {
			err = os.Chmod(path, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
		err = refused(t, opts)
		requireIn(t, err, path)
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("the error is %v", err)
		}
		if err := os.Chmod(path, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
		requireFiles(t, dir, before)
	}
	holds(t, opts)
}

// Without its key a stream is not removed, and none takes its place.
func TestStreamWithoutItsKey(t *testing.T) {
	t.Parallel()
	file := func(key string) string {
		return writeFile(t, "nats-server.conf", fmt.Sprintf("jetstream {key: %q}", key))
	}
	opts, dir := stored(t, embedded.Options{ConfigFile: file("s3cret")})
	before := files(t, dir)
	for name, wrong := range map[string]string{"none": "", "another": file("secret")} {
		t.Run(name, func(t *testing.T) {
			opts := opts
			opts.ConfigFile = wrong
			requireIn(t, refused(t, opts), "the stream LOG", dir, "is encrypted", "key")
			requireFiles(t, dir, before)
		})
	}
	holds(t, opts)

	// It is in nobody's way where its account is no more.
	opts.ConfigFile = writeFile(t, "nats-server.conf", `accounts {A {users: [{user: a, password: a}], jetstream: enabled}}`)
	start(t, opts)
}

// What a server has that stood alone is none of a cluster's.
func TestStoreOfASingleNodeInACluster(t *testing.T) {
	t.Parallel()
	opts, dir := stored(t, embedded.Options{})
	before := files(t, dir)
	node := cluster(t, 3)[0]
	node.opts.StoreDir = opts.StoreDir
	requireIn(t, refused(t, node.opts), opts.StoreDir+" holds the store of a single node")
	byFile := opts
	byFile.ServerName = "node-0"
	byFile.ConfigFile = writeFile(t, "nats-server.conf", `cluster {name: c, listen: "127.0.0.1:-1", routes: ["nats://127.0.0.1:1"]}`)
	requireIn(t, refused(t, byFile), opts.StoreDir+" holds the store of a single node")
	requireFiles(t, dir, before)
	holds(t, opts)
}

// storedOnAll waits until all nodes have what the stream of the tests has.
func storedOnAll(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	eventually(t, "store on all nodes", func(ctx context.Context) error {
		stream, err := js.Stream(ctx, "LOG")
		if err != nil {
			return err
		}
		for _, replica := range stream.CachedInfo().Cluster.Replicas {
			if !replica.Current || replica.Lag > 0 {
				return fmt.Errorf("%s is behind", replica.Name)
			}
		}
		return nil
	})
}

// A node that stood alone since has written what the others of its cluster do not
// know, and would be taken away by them. Empty, it is one of them again.
func TestNodeThatStoodAlone(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 3)
	for _, n := range nodes {
		n.start(t)
	}
	nodes[0].ready(t)
	js := nodes[0].jetStream(t)
	createLog(t, js)
	publish(t, js, 1)
	storedOnAll(t, js)
	for _, n := range nodes {
		shutdown(t, n.Server)
	}

	alone := embedded.Options{JetStream: true, StoreDir: nodes[0].opts.StoreDir}
	for _, next := range []uint64{2, 3} { // nothing is removed in between
		s := start(t, alone)
		publish(t, askForLog(t, s), next)
		shutdown(t, s)
		requireIn(t, refused(t, nodes[0].opts), alone.StoreDir+" holds the store of a single node")
	}

	if err := os.RemoveAll(filepath.Join(alone.StoreDir, "jetstream")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it has the stream again
		for _, n := range nodes {
			n.start(t)
		}
		nodes[0].ready(t)
		publish(t, nodes[0].jetStream(t), 2)
		storedOnAll(t, nodes[0].jetStream(t))
		for _, n := range nodes {
			shutdown(t, n.Server)
		}
	}
}

// A process that was killed while its server started may have left a stream in its
// other place only.
func TestStreamLeftByAStart(t *testing.T) {
	t.Parallel()
	opts, dir := stored(t, embedded.Options{})
	stray := filepath.Join(opts.StoreDir, "jetstream", "_test_1") // as of a kill, too
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(opts.StoreDir, "kvbus.kept", "$G")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, filepath.Join(kept, "LOG")); err != nil {
		t.Fatal(err)
	}
	holds(t, opts)
	requireNothingKept(t, opts)
	if err := os.MkdirAll(filepath.Join(kept, "LOG"), 0o700); err != nil { // killed earlier
		t.Fatal(err)
	}
	holds(t, opts)
	requireNothingKept(t, opts)
}

// What describes a stream can be made anew, when somebody asks for it.
func TestDamagedDescriptionIsNoError(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"meta.inf", "meta.sum"} {
		opts, dir := stored(t, embedded.Options{})
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := start(t, opts)
		js := askForLog(t, s)
		publish(t, js, 3)
		shutdown(t, s)
		requireNothingKept(t, opts)
	}
}

// That fails where the log can't be read either, and removes nothing for good.
func TestDamagedDescriptionOfAStreamThatCanNotBeRead(t *testing.T) {
	t.Parallel()
	opts, dir := stored(t, embedded.Options{})
	bad := filepath.Join(dir, "msgs", "2.blk")
	err := os.WriteFile(filepath.Join(dir, "meta.sum"), []byte("x"), 0o600)
	if err == nil {
		err = os.Mkdir(bad, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	s := start(t, opts)
	js, err := jetstream.New(inProcess(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log"}}); err == nil {
		t.Error("a stream that can't be read is made anew")
	}
	shutdown(t, s)
	requireFiles(t, dir, before)
	requireNothingKept(t, opts)
}

// What has come in its place while the server ran stays.
func TestDamagedDescriptionOfAStreamThatIsReplaced(t *testing.T) {
	t.Parallel()
	opts, dir := stored(t, embedded.Options{})
	if err := os.WriteFile(filepath.Join(dir, "meta.sum"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, opts)
	js := askForLog(t, s)
	if err := js.DeleteStream(t.Context(), "LOG"); err != nil {
		t.Fatal(err)
	}
	askForLog(t, s)
	shutdown(t, s)
	requireNothingKept(t, opts)
	stream, err := askForLog(t, start(t, opts)).Stream(t.Context(), "LOG")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("a stream that was removed is there again, with %d messages", n)
	}
}
