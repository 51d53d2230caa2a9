package cmd

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the Go release it is built with",
		Args:  cobra.NoArgs,
		RunE: runE(func(*cobra.Command) error {
			build := readBuild()
			if asJSON {
				return json.NewEncoder(a.stdout).Encode(build)
			}
			_, err := fmt.Fprintln(a.stdout, build)
			return err
		}),
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

// build says what this program was built from.
type build struct {
	Version  string `json:"version"`            // of the module; (devel) when it was built from a directory
	Commit   string `json:"commit,omitempty"`   // empty when it was built outside of a repository
	Time     string `json:"time,omitempty"`     // of the commit, RFC 3339
	Modified bool   `json:"modified,omitempty"` // there were changes over the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuild() build {
	b := build{
		Version:  "(devel)",
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// semantic returns the version as NATS services must have it: a semantic
// version, without the v that Go puts before it.
func (b build) semantic() string {
	if version, ok := strings.CutPrefix(b.Version, "v"); ok {
		return version
	}
	return "0.0.0-devel"
}

// String returns one line for people.
func (b build) String() string {
	var s strings.Builder
	s.WriteString("kvbus " + b.Version)
	if b.Commit != "" {
		s.WriteString(" commit " + b.Commit)
		if b.Modified {
			s.WriteString(" with changes")
		}
	}
	s.WriteString(" " + b.Go + " " + b.Platform)
	return s.String()
}
