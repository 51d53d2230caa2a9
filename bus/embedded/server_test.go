package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kvbus/bus/bustest"
	"kvbus/bus/embedded"
)

func TestClientsOverTCPAndInProcess(t *testing.T) {
	s := start(t, embedded.Options{ServerName: "one"})
	tcp, local := overTCP(t, s), inProcess(t, s)
	carry(t, tcp, local, 10)
	carry(t, local, tcp, 10)

	if s.Name() != "one" || local.ConnectedServerName() != "one" {
		t.Errorf("name is %q, clients see %q", s.Name(), local.ConnectedServerName())
	}
	if s.ID() == "" || s.ID() != tcp.ConnectedServerId() {
		t.Errorf("ID is %q, clients see %q", s.ID(), tcp.ConnectedServerId())
	}
	if want := "nats://" + s.Addr().String(); s.ClientURL() != want {
		t.Errorf("URL is %q, want %q", s.ClientURL(), want)
	}
}

func TestClientURLOfEveryInterface(t *testing.T) {
	s := start(t, embedded.Options{Listen: ":0"})
	if want := fmt.Sprintf("nats://127.0.0.1:%d", s.Addr().(*net.TCPAddr).Port); s.ClientURL() != want {
		t.Errorf("URL is %q, want %q", s.ClientURL(), want)
	}
	carry(t, overTCP(t, s), inProcess(t, s), 10)
}

func TestLargeMessages(t *testing.T) {
	const size = 5 << 20
	s := start(t, embedded.Options{MaxPayload: size})
	tcp, local := overTCP(t, s), inProcess(t, s)
	carry(t, tcp, local, size)
	carry(t, local, tcp, size)
	carry(t, local, local, size)
	if s.MaxPayload() != size || tcp.MaxPayload() != size {
		t.Errorf("max payload is %d, clients see %d, want %d", s.MaxPayload(), tcp.MaxPayload(), size)
	}
}

// A message may be larger than nats-server's max_pending is by default, 64 MiB.
func TestMessagesOverTheDefaultMaxPending(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 65 MiB")
	}
	const size = 65 << 20
	s := start(t, embedded.Options{MaxPayload: size})
	nc := overTCP(t, s, nats.NoReconnect())
	sub, err := nc.SubscribeSync("large")
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("large", make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if len(msg.Data) != size {
		t.Errorf("%d bytes arrived of %d", len(msg.Data), size)
	}
}

func TestMaxPayloadOverTheFilesMaxPending(t *testing.T) {
	file := writeFile(t, "nats-server.conf", "max_pending: 2MB")
	err := refused(t, embedded.Options{ConfigFile: file, MaxPayload: 3 << 20})
	requireIn(t, err, file, "max_payload (3145728) cannot be higher than max_pending (2097152)")
}

func TestConfigFile(t *testing.T) {
	file := writeFile(t, "nats-server.conf", `
		server_name: from-file
		max_payload: 64KB
		authorization { users: [ {user: ada, password: secret} ] }
	`)
	s := start(t, embedded.Options{ConfigFile: file, MaxPayload: 2 << 20})
	if s.Name() != "from-file" {
		t.Errorf("name is %q", s.Name())
	}
	if s.MaxPayload() != 64<<10 {
		t.Errorf("max payload is %d, want the file's", s.MaxPayload())
	}
	ada := nats.UserInfo("ada", "secret")
	carry(t, overTCP(t, s, ada), inProcess(t, s, ada), 64<<10)
	if err := inProcess(t, s, ada).Publish("a", make([]byte, 64<<10+1)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("a message over the file's max_payload: %v", err)
	}
}

func TestBadConfigFile(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.conf")
	err := refused(t, embedded.Options{ConfigFile: absent})
	requireIn(t, err, absent)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cause is lost: %v", err)
	}
	for name, text := range map[string]string{
		"syntax":   "authorization {",
		"type":     `port: "many"`,
		"unknown":  "no_such_setting: 1",
		"conflict": "authorization { user: a, password: b, token: c }",
		"invalid":  "cluster { name: a, port: -1 }, gateway { name: b, port: -1 }",
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, name+".conf", text)
			err := refused(t, embedded.Options{ConfigFile: file})
			requireIn(t, err, file)
			if strings.HasSuffix(err.Error(), "\n") {
				t.Errorf("the error ends a line: %q", err)
			}
		})
	}
}

func TestAddressInUse(t *testing.T) {
	holder, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	addr := holder.Addr().String()
	port := holder.Addr().(*net.TCPAddr).Port
	logFile := filepath.Join(t.TempDir(), "nats.log")

	for name, tt := range map[string]struct {
		listen string
		file   string
		want   string
	}{
		"clients":           {addr, "", addr},
		"clients, log file": {addr, fmt.Sprintf("log_file: %q", logFile), addr},
		"monitoring":        {anyPort, fmt.Sprintf("http: %q", addr), addr},
		"routes":            {anyPort, fmt.Sprintf("cluster { name: c, listen: %q }", addr), fmt.Sprint(port)},
		"leaf nodes":        {anyPort, fmt.Sprintf("leafnodes { listen: %q }", addr), fmt.Sprint(port)},
		"websocket":         {anyPort, fmt.Sprintf("websocket { listen: %q, no_tls: true }", addr), addr},
	} {
		t.Run(name, func(t *testing.T) {
			opts := embedded.Options{Listen: tt.listen}
			if tt.file != "" {
				opts.ConfigFile = writeFile(t, "nats-server.conf", tt.file)
			}
			err := refused(t, opts)
			requireIn(t, err, tt.want)
			// Of this one nats-server keeps the text only.
			if name != "monitoring" && !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("the cause is lost: %v", err)
			}
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if s, err := embedded.Start(ctx, embedded.Options{Listen: anyPort}); !errors.Is(err, cause) {
		t.Errorf("server is %v, error is %v", s, err)
	}
}

// onWrite is done when the log has something.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// A start that is given up leaves nothing running.
func TestStartEndsWithItsContextMeanwhile(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	address := bustest.FreeAddress(t)
	s, err := embedded.Start(ctx, embedded.Options{
		Listen:     address,
		ServerName: "a",
		ConfigFile: writeFile(t, "nats-server.conf", "server_name: b"), // which the log tells
		Logger:     slog.New(slog.NewTextHandler(onWrite(func() { cancel(cause) }), nil)),
	})
	if !errors.Is(err, cause) {
		t.Fatalf("server is %v, error is %v", s, err)
	}
	free, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	free.Close()
}

// A start may take long where JetStream has much to read, and goes on: here it
// reads a pipe, in place of a file, until somebody writes to that.
func TestSlowStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stream := filepath.Join(dir, "jetstream", "$G", "streams", "LOG")
	if err := os.MkdirAll(stream, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(stream, "meta.inf")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(filepath.Join(stream, "meta.sum"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := record(slog.LevelInfo)
	go func() {
		for t.Context().Err() == nil && log.find("INFO nats-server still starting; JetStream reads its files first") == "" {
			time.Sleep(10 * time.Millisecond)
		}
		_ = os.WriteFile(file, nil, 0) // without a reader the test has failed already
	}()
	start(t, embedded.Options{JetStream: true, StoreDir: dir, Logger: slog.New(log)})
	if log.find("INFO nats-server still starting; JetStream reads its files first") == "" {
		t.Errorf("not in the log: %q", log.all())
	}
}

func TestShutdown(t *testing.T) {
	s := start(t, embedded.Options{})
	addr, url := s.Addr().String(), s.ClientURL()
	closed := make(chan struct{})
	inProcess(t, s, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))

	shutdown(t, s)
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("a connection is still open")
	}
	free, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	free.Close()

	if nc, err := s.Connect(); err == nil {
		nc.Close()
		t.Error("a server that is shut down takes connections")
	}
	if s.ClientURL() != url || s.Addr().String() != addr {
		t.Errorf("after its end it was at %s, %s; before it at %s, %s", s.ClientURL(), s.Addr(), url, addr)
	}
	shutdown(t, s)
}

func TestShutdownEndsWaitingWithItsContext(t *testing.T) {
	s := start(t, embedded.Options{})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, cause) {
		t.Errorf("the cause is lost: %v", err)
	}
	shutdown(t, s)
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("it has ended, and yet: %v", err)
	}
}

func TestJetStreamSurvivesRestart(t *testing.T) {
	opts := embedded.Options{JetStream: true, StoreDir: t.TempDir(), SyncAlways: true}
	s := start(t, opts)
	js, err := jetstream.New(inProcess(t, s))
	if err != nil {
		t.Fatal(err)
	}
	cfg := jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log.>"}, Storage: jetstream.FileStorage}
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "log.a", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	shutdown(t, s)

	js, err = jetstream.New(inProcess(t, start(t, opts)))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "LOG")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if string(msg.Data) != "kept" {
		t.Errorf("message is %q", msg.Data)
	}
}

func TestStoreDir(t *testing.T) {
	if dir := start(t, embedded.Options{}).StoreDir(); dir != "" {
		t.Errorf("without JetStream it is %q", dir)
	}
	inOptions, inFile := t.TempDir(), t.TempDir()
	log := record(slog.LevelWarn)
	s := start(t, embedded.Options{
		ConfigFile: writeFile(t, "nats-server.conf", fmt.Sprintf("jetstream { store_dir: %q }", inFile)),
		JetStream:  true,
		StoreDir:   inOptions,
		Logger:     slog.New(log),
	})
	if want := filepath.Join(inFile, "jetstream"); s.StoreDir() != want {
		t.Errorf("it is %q, want %q", s.StoreDir(), want)
	}
	if log.find("WARN nats-server the config file overrides an option") == "" {
		t.Errorf("not in the log: %q", log.all())
	}
}

func TestSyncAlways(t *testing.T) {
	for name, tt := range map[string]struct {
		option bool
		file   string
		want   bool
	}{
		"neither":        {false, "", false},
		"option":         {true, "", true},
		"file":           {false, "sync_interval: always", true},
		"file over it":   {true, "sync_interval: 2m", false},
		"file leaves it": {true, "max_file: 1G", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, embedded.Options{
				ConfigFile: writeFile(t, "nats-server.conf", fmt.Sprintf("jetstream { %s }", tt.file)),
				JetStream:  true,
				StoreDir:   t.TempDir(),
				SyncAlways: tt.option,
			})
			if s.SyncAlways() != tt.want {
				t.Errorf("it is %v", s.SyncAlways())
			}
		})
	}
	if start(t, embedded.Options{ConfigFile: writeFile(t, "nats-server.conf", "port: -1")}).SyncAlways() {
		t.Error("it is so without JetStream")
	}
}

func TestStoreDirThatIsNone(t *testing.T) {
	file := writeFile(t, "file", "")
	err := refused(t, embedded.Options{JetStream: true, StoreDir: file})
	requireIn(t, err, "store directory", file)
	if !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("the cause is lost: %v", err)
	}
}

// A server has its store directory to itself, until it has ended, whether the
// options name it or the file.
func TestStoreDirInUse(t *testing.T) {
	dir := t.TempDir()
	opts := embedded.Options{JetStream: true, StoreDir: dir}
	first := start(t, opts)
	file := writeFile(t, "nats-server.conf", fmt.Sprintf("listen: %q, jetstream {store_dir: %q}", "127.0.0.1:-1", dir))
	for _, opts := range []embedded.Options{opts, {ConfigFile: file}} {
		err := refused(t, opts)
		requireIn(t, err, dir)
		if !errors.Is(err, embedded.ErrStoreInUse) {
			t.Errorf("the error is %v", err)
		}
	}
	shutdown(t, first)
	start(t, opts)
}

// Where nobody names a directory, nats-server has one for all servers of a machine.
func TestTemporaryStoreInUse(t *testing.T) {
	for text, dir := range map[string]string{
		"jetstream: enabled":                       "nats/jetstream",
		"jetstream {max_mem: 10MB, max_file: 1GB}": "jetstream",
	} {
		temporary := t.TempDir()
		t.Setenv("TMPDIR", temporary)
		opts := embedded.Options{ConfigFile: writeFile(t, "nats-server.conf", text)}
		first := start(t, opts)
		if want := filepath.Join(temporary, dir); first.StoreDir() != want {
			t.Errorf("the directory is %s, want %s", first.StoreDir(), want)
		}
		if err := refused(t, opts); !errors.Is(err, embedded.ErrStoreInUse) {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestReloadIsRefused(t *testing.T) {
	file := writeFile(t, "nats-server.conf", `
		listen: "127.0.0.1:-1"
		accounts { SYS: { users: [ {user: admin, password: secret} ] } }
		system_account: SYS
	`)
	s := start(t, embedded.Options{ConfigFile: file, MaxPayload: 2 << 20})
	admin := nats.UserInfo("admin", "secret")
	nc := inProcess(t, s, admin)
	reply, err := nc.Request("$SYS.REQ.SERVER."+s.ID()+".RELOAD", nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(reply.Data), `"error"`) {
		t.Errorf("reload: %s", reply.Data)
	}
	if got := inProcess(t, s, admin).MaxPayload(); got != 2<<20 {
		t.Errorf("max payload after it is %d", got)
	}
}

func TestCheckDisk(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{JetStream: true, StoreDir: dir})
	if err := s.CheckDisk(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 { // JetStream's directory and the lock
		t.Errorf("it leaves %v, %v", entries, err)
	}
	probe := filepath.Join(dir, "kvbus.probe")
	if err := os.Mkdir(probe, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckDisk(); err == nil || !strings.Contains(err.Error(), probe) {
		t.Errorf("a disk that can't be written to is checked with %v", err)
	}
}

func TestCheckStore(t *testing.T) {
	if err := start(t, embedded.Options{}).CheckStore(); err != nil {
		t.Errorf("without a directory: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	opts := embedded.Options{JetStream: true, StoreDir: dir}
	s := start(t, opts)
	if err := s.CheckStore(); err != nil {
		t.Error(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckStore(); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory that is gone is checked with %v", err)
	}
	other := start(t, opts)
	if err := s.CheckStore(); err == nil {
		t.Error("another's directory is taken for its own")
	}
	if err := other.CheckStore(); err != nil {
		t.Error(err)
	}
}
