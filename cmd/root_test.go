package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kvbus/config"
)

// result is what a run of the command line came to.
type result struct {
	status         int
	stdout, stderr string
}

// kvbus runs a command line in a process of its own making: with environ and
// nothing else in the environment.
func kvbus(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, environ: environ}
	status := a.execute(t.Context(), args)
	return result{status, stdout.String(), stderr.String()}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kvbus.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	badFile := writeFile(t, "store: {max_keys: -1}")
	contextFile := writeFile(t, "nats: {context: prod}")
	for name, test := range map[string]struct {
		environ []string
		args    []string
		status  int
		stderr  string // a part of it
	}{
		"nothing":          {nil, nil, 0, ""},
		"help":             {nil, []string{"--help"}, 0, ""},
		"help of command":  {nil, []string{"help", "serve"}, 0, ""},
		"help of help":     {nil, []string{"help"}, 0, ""},
		"completion":       {nil, []string{"completion"}, 0, ""},
		"version":          {nil, []string{"version"}, 0, ""},
		"config":           {nil, []string{"config"}, 0, ""},
		"config check":     {nil, []string{"config", "--check"}, 0, ""},
		"config reference": {nil, []string{"config", "--reference"}, 0, ""},

		"unknown command":        {nil, []string{"sevre"}, 2, "kvbus: unknown command \"sevre\""},
		"empty command":          {nil, []string{""}, 2, "kvbus: unknown command \"\" for \"kvbus\"\nRun 'kvbus --help' for usage.\n"},
		"command after a dash":   {nil, []string{"--", "bogus"}, 2, "kvbus: unknown command \"bogus\""},
		"unknown flag":           {nil, []string{"serve", "--colour"}, 2, "kvbus: unknown flag: --colour\nRun 'kvbus serve --help' for usage.\n"},
		"unknown short flag":     {nil, []string{"-x"}, 2, "kvbus: unknown shorthand flag"},
		"flag without its value": {nil, []string{"serve", "--prefix"}, 2, "flag needs an argument: --prefix"},
		"flag's value no number": {nil, []string{"serve", "--max-keys", "many"}, 2, `invalid argument "many" for "--max-keys" flag: must be a whole number`},
		"flag's value, bare":     {nil, []string{"serve", "--drain-timeout", "10"}, 2, "must be a duration with a unit"},
		"flag's value, a list":   {nil, []string{"serve", "--log-level", "loud"}, 2, "must be one of debug, info, warn, error"},
		"flag's value, rule":     {nil, []string{"serve", "--max-keys", "-1"}, 2, "kvbus: store.max_keys (--max-keys) is -1: must be 0 (no limit) or more; set by flag --max-keys\n"},
		"flag against the file":  {nil, []string{"config", "--config", contextFile, "--nats-url", "a"}, 2, "can't be used together with nats.url"},
		"flags that exclude":     {nil, []string{"config", "--check", "--reference"}, 2, "check reference"},
		"an argument too many":   {nil, []string{"serve", "now"}, 2, "kvbus: unknown command \"now\" for \"kvbus serve\""},
		"filter that is none":    {nil, []string{"watch", "a..b"}, 2, "write it as =\nRun 'kvbus watch --help' for usage.\n"},
		"two filters":            {nil, []string{"watch", "a", "b"}, 2, "one filter at most, not 2"},
		"two starts":             {nil, []string{"watch", "--state", "--from-revision", "1"}, 2, "from-revision state"},
		"revision that is none":  {nil, []string{"watch", "--from-revision", "-1"}, 2, "kvbus: invalid argument \"-1\" for \"--from-revision\" flag: must be a whole number, 0 or more\n"},
		"revision, too large":    {nil, []string{"watch", "--from-revision", "18446744073709551616"}, 2, "must be at most 18446744073709551615"},
		"server twice":           {nil, []string{"watch", "--server", "a", "--nats-context", "b"}, 2, "two ways to name a server"},
		"setting of workers":     {nil, []string{"watch", "--data-dir", "x"}, 2, "unknown flag: --data-dir"},
		"unknown help topic":     {nil, []string{"help", "sevre"}, 2, "kvbus: unknown command \"sevre\""},
		"help topic too many":    {nil, []string{"help", "serve", "now"}, 2, "unknown help topic"},
		"empty help topic":       {nil, []string{"help", ""}, 2, "unknown help topic"},
		"unknown shell":          {nil, []string{"completion", "dos"}, 2, "dos"},

		"bad file":             {nil, []string{"serve", "--config", badFile}, 1, "kvbus: store.max_keys (--max-keys) is -1"},
		"bad file, checked":    {nil, []string{"config", "--check", "--config", badFile}, 1, "set by file " + badFile},
		"bad file of variable": {[]string{"KVBUS_CONFIG=" + badFile}, []string{"config"}, 1, "set by file " + badFile},
		"missing file":         {nil, []string{"serve", "--config", "missing.yaml"}, 1, "kvbus: config file missing.yaml: "},
		"bad variable":         {[]string{"KVBUS_LOG_LEVEL=debug"}, []string{"serve"}, 1, "did you mean KVBUS_LOG__LEVEL?"},
		"hint at the settings": {[]string{"KVBUS_COLOR=blue"}, []string{"serve"}, 1, "Run 'kvbus config --help' for all settings.\n"},
		"no flag of clients":   {[]string{"KVBUS_NATS__LISTEN=x"}, []string{"watch"}, 1, `kvbus: nats.listen is "x": must be host:port; set by`},
		"covered bad variable": {[]string{"KVBUS_STORE__MAX_KEYS=-1"}, []string{"config", "--max-keys", "1"}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := kvbus(t, test.environ, test.args...)
			if got.status != test.status {
				t.Errorf("exit status %d; want %d; stderr:\n%s", got.status, test.status, got.stderr)
			}
			if !strings.Contains(got.stderr, test.stderr) {
				t.Errorf("stderr has no %q:\n%s", test.stderr, got.stderr)
			}
			if test.status == 0 && (got.stderr != "" || got.stdout == "") {
				t.Errorf("stdout %q, stderr %q; want output on stdout alone", got.stdout, got.stderr)
			}
			if test.status != 0 && (got.stdout != "" || strings.Count(got.stderr, "kvbus: ") != 1) {
				t.Errorf("stdout %q, stderr %q; want one error, on stderr alone", got.stdout, got.stderr)
			}
		})
	}
}

// What can't be printed is an error that is told once, whoever prints.
func TestNoRoomForTheOutput(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, args := range [][]string{
		nil, {"--help"}, {"help"}, {"help", "serve"}, {"serve", "--help"}, {"completion"}, {"completion", "bash"}, {"completion", "fish"},
		{"--version"}, {"version"}, {"version", "--json"}, {"config"}, {"config", "--check"}, {"config", "--reference"}, {"__complete", ""},
	} {
		var stderr bytes.Buffer
		a := app{stdin: strings.NewReader(""), stdout: full, stderr: &stderr}
		status := a.execute(t.Context(), args)
		text := stderr.String()
		if status != 1 || strings.Count(text, "no space left on device") != 1 || !strings.HasPrefix(text, "kvbus: ") && args[0] != "__complete" {
			t.Errorf("kvbus %q: exit status %d and %q", args, status, text)
		}
	}
}

func TestEveryProblemIsReported(t *testing.T) {
	t.Parallel()
	got := kvbus(t, []string{"KVBUS_BUS__PREFIX=a..b", "KVBUS_NATS__PASSWORD=hunter2"}, "serve")
	want := `kvbus: the configuration has 2 problems:
  nats.password (--password) is "***": needs nats.user; set by environment variable KVBUS_NATS__PASSWORD
  bus.prefix (--prefix) is "a..b": must have no empty token; set by environment variable KVBUS_BUS__PREFIX
Run 'kvbus config --help' for all settings.
`
	if got.status != 1 || got.stderr != want {
		t.Errorf("exit status %d, stderr:\n%s\nwant 1 and\n%s", got.status, got.stderr, want)
	}
}

func TestExecuteReadsTheEnvironmentOfTheProcess(t *testing.T) {
	for _, pair := range os.Environ() {
		// What tells the tests of kvbus how to run is no setting.
		if name, value, _ := strings.Cut(pair, "="); strings.HasPrefix(name, config.EnvPrefix) {
			t.Setenv(name, value) // and back at the end
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("KVBUS_NAME", "from-environment")
	var stdout, stderr bytes.Buffer
	status := Execute(t.Context(), []string{"config"}, strings.NewReader(""), &stdout, &stderr)
	if status != 0 || !strings.Contains(stdout.String(), "name: from-environment\n") {
		t.Errorf("exit status %d, stdout:\n%s\nstderr:\n%s", status, stdout.String(), stderr.String())
	}
}

// Nil arguments are none: cobra would take those of the process.
func TestExecuteWithoutArguments(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	status := Execute(context.Background(), nil, strings.NewReader(""), &stdout, &stderr)
	if status != 0 || !strings.Contains(stdout.String(), "kvbus serve") {
		t.Errorf("exit status %d, stdout:\n%s\nstderr:\n%s", status, stdout.String(), stderr.String())
	}
}

func TestHelpNamesEverySetting(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"serve", "config"} {
		help := kvbus(t, nil, command, "--help").stdout
		for _, s := range config.Settings() {
			want := "--" + s.Flag + " " + s.Arg + " "
			if s.Flag == "" {
				want = s.Path + ", " + s.Env + "\n"
			}
			if !strings.Contains(help, want) {
				t.Errorf("kvbus %s --help has no %q", command, want)
			}
			if want := s.Usage + " (default " + s.Default + ")\n"; s.Flag == "" && strings.Contains(help, want) != (s.Default != "") {
				t.Errorf("kvbus %s --help tells the default %q of %s wrongly", command, s.Default, s.Path)
			}
		}
		for _, want := range []string{"\nGeneral:\n", "\nNATS:\n", "\nStore:\n", "\nFlags:\n", "--config file ", "Examples:\n"} {
			if strings.Count(help, want) != 1 {
				t.Errorf("kvbus %s --help has %q %d times; want once", command, want, strings.Count(help, want))
			}
		}
		for line := range strings.Lines(help) {
			if len(line) > helpWidth+1 {
				t.Errorf("kvbus %s --help has a line of %d columns: %s", command, len(line), line)
			}
		}
	}
	root := kvbus(t, nil, "--help").stdout
	for _, want := range []string{"serve ", "config ", "version ", "completion ", "kvbus config > kvbus.yaml", "exit status"} {
		if !strings.Contains(root, want) {
			t.Errorf("kvbus --help has no %q:\n%s", want, root)
		}
	}
}

func TestHelpOfAClientNamesItsSettings(t *testing.T) {
	t.Parallel()
	help := kvbus(t, nil, "watch", "--help").stdout
	for _, s := range config.Settings() {
		if got, want := strings.Contains(help, " --"+s.Flag+" "), s.Flag != "" && forClients(s); got != want {
			t.Errorf("kvbus watch --help has --%s: %v; want %v", s.Flag, got, want)
		}
	}
	for _, want := range []string{"--server", "--state", "--from-revision revision", "value_base64", "Examples:\n"} {
		if !strings.Contains(help, want) {
			t.Errorf("kvbus watch --help has no %q", want)
		}
	}
	if strings.Contains(help, "Without a flag") {
		t.Error("kvbus watch --help tells of settings of workers")
	}
	for line := range strings.Lines(help) {
		if len(line) > helpWidth+1 {
			t.Errorf("kvbus watch --help has a line of %d columns: %s", len(line), line)
		}
	}
}

func TestConfigPrintsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	environ := []string{"KVBUS_NATS__USER=me", "KVBUS_NATS__PASSWORD=hunter2"}
	got := kvbus(t, environ, "config", "--max-value-size", "2MiB").stdout
	for _, want := range []string{"  max_value_size: 2MiB\n", "  user: me\n", "  password: '***'\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if got := kvbus(t, environ, "config", "--check"); got.stdout != "ok\n" {
		t.Errorf("config --check prints %q; want ok", got.stdout)
	}
}

func TestConfigPrintsAFileThatLoads(t *testing.T) {
	t.Parallel()
	first := kvbus(t, nil, "config", "--prefix", "team.kv").stdout
	second := kvbus(t, nil, "config", "--config", writeFile(t, first)).stdout
	if second != first {
		t.Errorf("printed\n%s\nloaded and printed again\n%s", first, second)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	text := kvbus(t, nil, "version").stdout
	if flag := kvbus(t, nil, "--version").stdout; flag != text {
		t.Errorf("--version prints %q, version %q", flag, text)
	}
	var b build
	if err := json.Unmarshal([]byte(kvbus(t, nil, "version", "--json").stdout), &b); err != nil {
		t.Fatal(err)
	}
	if b.String()+"\n" != text || !strings.HasPrefix(b.Go, "go") || b.Version == "" {
		t.Errorf("as JSON %+v, as text %q", b, text)
	}
}

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := kvbus(t, nil, "completion", shell); got.status != 0 || !strings.Contains(got.stdout, "__complete") {
			t.Errorf("completion %s: exit status %d, %d bytes, stderr %q", shell, got.status, len(got.stdout), got.stderr)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"commands":   {[]string{"se"}, []string{"serve"}},
		"values":     {[]string{"serve", "--log-level", ""}, []string{"debug", "info", "warn", "error"}},
		"flags":      {[]string{"serve", "--max-"}, []string{"--max-bytes", "--max-keys", "--max-pending", "--max-pending-bytes", "--max-value-size"}},
		"no file":    {[]string{"serve", "--max-keys", ""}, nil},
		"no filter":  {[]string{"watch", ""}, nil},
		"dead end":   {[]string{"serve", ""}, nil},
		"any prefix": {[]string{"config", "--log-format="}, []string{"auto", "text", "json"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for line := range strings.Lines(kvbus(t, nil, append([]string{"__completeNoDesc"}, test.args...)...).stdout) {
				if !strings.HasPrefix(line, ":") {
					got = append(got, strings.TrimSpace(line))
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%q completes to %q; want %q", test.args, got, test.want)
			}
		})
	}
}
