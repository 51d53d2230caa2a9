package embedded_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kvbus/bus/embedded"
)

func TestLogGoesToSlog(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug, embedded.LevelTrace} {
		t.Run(level.String(), func(t *testing.T) {
			log := record(level)
			s := start(t, embedded.Options{
				ServerName: "one",
				JetStream:  true,
				StoreDir:   t.TempDir(),
				Logger:     slog.New(log),
			})
			nc := inProcess(t, s, nats.UserInfo("ada", "secret"))
			carry(t, nc, nc, 10)
			shutdown(t, s)

			// One line of each level, and that it is there when asked for only.
			for prefix, from := range map[string]slog.Level{
				"DEBUG nats-server Name:     one":                       slog.LevelDebug,
				"DEBUG nats-server Server is ready":                     slog.LevelDebug,
				"DEBUG nats-server Listening for client connections on": slog.LevelDebug,
				"DEBUG nats-server Server Exiting":                      slog.LevelDebug,
				"DEBUG nats-server Go build":                            slog.LevelDebug,
				"DEBUG-4 nats-server pipe":                              embedded.LevelTrace,
			} {
				if line := log.find(prefix); (line != "") != (level <= from) {
					t.Errorf("at %v the line %q... is %q", level, prefix, line)
				}
			}
			ready := 0
			for _, line := range log.all() {
				if strings.HasSuffix(line, "Server is ready") {
					ready++
				}
				_, text, _ := strings.Cut(line, "nats-server ")
				if text != strings.TrimSpace(text) || strings.Trim(text, "-_|/\\ ") == "" {
					t.Errorf("a line for a terminal: %q", line)
				}
				if strings.Contains(line, "secret") {
					t.Errorf("a secret in the log: %q", line)
				}
			}
			if level <= slog.LevelDebug && ready != 1 {
				t.Errorf("it is ready %d times", ready)
			}
			if level == slog.LevelInfo && len(log.all()) > 0 {
				t.Errorf("starting and stopping is not news: %q", log.all())
			}
		})
	}
}

// A consumer that reads nothing is cut off, which nats-server tells as a notice.
func TestNoticesWhileItRuns(t *testing.T) {
	log := record(slog.LevelInfo)
	file := writeFile(t, "nats-server.conf", "max_payload: 64KB, max_pending: 128KB")
	s := start(t, embedded.Options{ConfigFile: file, Logger: slog.New(log)})
	slow, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "CONNECT {\"verbose\":true}\r\nSUB slow 1\r\n"); err != nil {
		t.Fatal(err)
	}
	// Each of CONNECT and SUB is answered once it is done; INFO comes first.
	for lines, done := bufio.NewScanner(slow), 0; done < 2; {
		if !lines.Scan() {
			t.Fatalf("the server hung up: %v", lines.Err())
		}
		if lines.Text() == "+OK" {
			done++
		}
	}

	nc := inProcess(t, s)
	deadline := time.Now().Add(patience)
	for log.find("INFO nats-server 127.0.0.1:") == "" {
		if time.Now().After(deadline) {
			t.Fatalf("not in the log: %q", log.all())
		}
		if err := nc.Publish("slow", make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOverriddenFileIsLogged(t *testing.T) {
	log := record(slog.LevelInfo)
	file := writeFile(t, "nats-server.conf", `server_name: from-file`)
	start(t, embedded.Options{ServerName: "one", ConfigFile: file, Logger: slog.New(log)})
	if log.find("INFO nats-server an option overrides the config file") == "" {
		t.Errorf("not in the log: %q", log.all())
	}
}

func TestSyslogOfTheConfigFileIsLeft(t *testing.T) {
	log := record(slog.LevelDebug)
	file := writeFile(t, "nats-server.conf", `syslog: true, remote_syslog: "udp://127.0.0.1:1"`)
	start(t, embedded.Options{ConfigFile: file, Logger: slog.New(log)})
	if log.find("WARN nats-server syslog in the config file is not used") == "" || log.find("DEBUG nats-server Server is ready") == "" {
		t.Errorf("not in the log: %q", log.all())
	}
}

func TestLogFileOfTheConfigFile(t *testing.T) {
	log := record(embedded.LevelTrace)
	path := filepath.Join(t.TempDir(), "nats.log")
	file := writeFile(t, "nats-server.conf", `log_size_limit: 10MB, log_max_num: 3, log_file: "`+path+`"`)
	s := start(t, embedded.Options{ConfigFile: file, Logger: slog.New(log)})
	inProcess(t, s)
	shutdown(t, s)

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[INF] Server is ready", "[INF] Server Exiting.."} {
		if strings.Count(string(text), want) != 1 {
			t.Errorf("%q is not once in the file:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "[DBG]") {
		t.Errorf("debug lines that the file did not ask for:\n%s", text)
	}
	if lines := log.all(); len(lines) > 0 {
		t.Errorf("in the process's log as well: %q", lines)
	}
}

func TestLogFileThatCannotBe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent", "nats.log")
	file := writeFile(t, "nats-server.conf", `log_file: "`+path+`"`)
	requireIn(t, refused(t, embedded.Options{ConfigFile: file}), file, path)
}

// Servers try each other again and again while a certificate is wrong, and clients do
// what they may not.
func TestRepeatsAreLoggedOnceAMinute(t *testing.T) {
	const (
		expired = "127.0.0.1:6222 - rid:%d - TLS route handshake error: tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026-05-04T10:11:%02dZ is after 2026-05-04T10:00:00Z"
		unshown = "127.0.0.1:4%d - rid:1%02d - TLS route handshake error: tls: client didn't provide a certificate"
		closed  = "127.0.0.1:6222 - rid:%[1]d - Router connection closed: TLS Handshake Failure"
		denied  = "pipe - cid:5 - \"v1.55.0:go:w requests\" - \"$G/user:worker\" - Publish Violation - Subject \"foo.%[1]d\""
		other   = "127.0.0.1:5%d - cid:%d - TLS handshake error: EOF"
	)
	begin := time.Date(2026, 5, 4, 10, 11, 0, 0, time.UTC)
	decide := embedded.Repeats()
	shown, omitted := map[string]int{}, map[string]int{}
	for second := range 61 {
		for _, format := range []string{expired, unshown, closed, denied, other} {
			level, show, n := decide(slog.LevelError, fmt.Sprintf(format, second, second%60), begin.Add(time.Duration(second)*time.Second))
			if show && level >= slog.LevelInfo {
				shown[format]++
				omitted[format] += n
			}
		}
	}
	for format, want := range map[string][2]int{expired: {2, 59}, unshown: {2, 59}, closed: {0, 0}, denied: {2, 59}, other: {61, 0}} {
		if got := [2]int{shown[format], omitted[format]}; got != want {
			t.Errorf("%q: logged, and told as omitted, %d times, want %d", format, got, want)
		}
	}
}
