package config_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"kvbus/config"
)

func printed(t *testing.T, cfg config.Config) string {
	t.Helper()
	var text bytes.Buffer
	if err := cfg.WriteYAML(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestPrintedConfigurationLoads(t *testing.T) {
	t.Parallel()
	odd := custom()
	odd.Name = "größe-#1:\"'"
	odd.NATS.Creds, odd.NATS.User = "multi\nline: *x", ""
	nodes := cluster()
	nodes.Cluster.Password, nodes.Cluster.User = "", "" // masked in print
	for name, want := range map[string]config.Config{"cluster": nodes, "default": config.Default(), "custom": custom(), "odd": odd} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := printed(t, want)
			got, err := layers{file: text}.load(t)
			if err != nil {
				t.Fatalf("%v, from\n%s", err, text)
			}
			if got != want {
				t.Errorf("loaded %+v, printed %+v as\n%s", got, want, text)
			}
			if again := printed(t, got); again != text {
				t.Errorf("printed again:\n%s\nbefore:\n%s", again, text)
			}
		})
	}
}

func TestPrintedConfigurationMasksSecrets(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.NATS.User, cfg.NATS.Password = "me", "hunter2"
	text := printed(t, cfg)
	if strings.Contains(text, "hunter2") || !strings.Contains(text, "password: '***'") {
		t.Errorf("the password is not masked in\n%s", text)
	}
	if _, err := (layers{file: text}).load(t); err == nil || !strings.Contains(err.Error(), "is the mask") {
		t.Errorf("error %v; want one about the mask", err)
	}
	filled := strings.Replace(text, "'***'", "hunter2", 1)
	if got, err := (layers{file: filled}).load(t); err != nil || got != cfg {
		t.Errorf("with the secret put back: %+v, %v", got, err)
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// What could not be written is not taken for written.
func TestPrintFails(t *testing.T) {
	t.Parallel()
	if err := config.Default().WriteYAML(full{}); err == nil {
		t.Error("no error of the configuration")
	}
	if err := config.WriteReference(full{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error of the reference %v, want %v", err, syscall.ENOSPC)
	}
}

func TestReferenceHasEverySetting(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	if err := config.WriteReference(&text); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(text.String(), "\n"); lines != 2+len(config.Settings()) {
		t.Errorf("%d lines for %d settings", lines, len(config.Settings()))
	}
	want := "| `store.max_value_size` | `--max-value-size` | `KVBUS_STORE__MAX_VALUE_SIZE` | `1MiB` | largest value, up to 8MiB |\n"
	if !strings.Contains(text.String(), want) {
		t.Errorf("no row %s in\n%s", want, text.String())
	}
}

func ExampleConfig_WriteYAML() {
	cfg := config.Config{Bus: config.Bus{Prefix: "team.kv"}}
	var text bytes.Buffer
	if err := cfg.WriteYAML(&text); err != nil {
		panic(err)
	}
	_, bus, _ := strings.Cut(text.String(), "bus:")
	bus, _, _ = strings.Cut(bus, "store:")
	_, _ = os.Stdout.WriteString("bus:" + bus)
	// Output:
	// bus:
	//   # subject prefix of the service, one or more tokens [--prefix, KVBUS_BUS__PREFIX]
	//   prefix: team.kv
}
