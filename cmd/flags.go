package cmd

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kvbus/config"
)

// configFlag names the flag for the file; it is no setting itself.
const configFlag = "config"

// addSettings gives a command the flag of each setting and the one for the
// file, with what a shell can complete of their values.
func addSettings(command *cobra.Command) {
	addSome(command, func(config.Setting) bool { return true })
}

// addClientSettings is addSettings for a command that is a client of the
// service. The flag for the server has a second name, as in the nats command.
func addClientSettings(command *cobra.Command) {
	addSome(command, forClients)
	flags := command.Flags()
	server := flags.Lookup("nats-url")
	server.Usage = "servers to connect to, comma separated; also --server (default: the address of nats.listen)"
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "server" {
			name = "nats-url"
		}
		return pflag.NormalizedName(name)
	})
}

// forClients reports whether a client of the service has a use for a setting.
func forClients(s config.Setting) bool {
	section, name, _ := strings.Cut(s.Path, ".")
	switch section {
	case "nats":
		return name != "listen" && name != "config"
	default:
		return section == "log" || section == "bus"
	}
}

func addSome(command *cobra.Command, want func(config.Setting) bool) {
	flags := command.Flags()
	flags.String(configFlag, "", "YAML `file` with settings (or "+config.EnvFile+" in the environment)")
	all := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	config.RegisterFlags(all)

	for _, s := range config.Settings() {
		if s.Flag == "" || !want(s) {
			continue
		}
		flags.AddFlag(all.Lookup(s.Flag))
		if s.Arg == "file" || s.Arg == "dir" {
			continue // a shell completes files by itself
		}
		values := cobra.FixedCompletions(s.Values, cobra.ShellCompDirectiveNoFileComp)
		if err := command.RegisterFlagCompletionFunc(s.Flag, values); err != nil {
			panic("cmd: " + err.Error()) // two settings with one flag
		}
	}
}

// loadConfig returns the effective configuration of a command that has
// addSettings' flags.
func (a *app) loadConfig(command *cobra.Command) (config.Config, error) {
	return a.load(command, config.Sources{})
}

// loadClientConfig is loadConfig for those of addClientSettings.
func (a *app) loadClientConfig(command *cobra.Command) (config.Config, error) {
	return a.load(command, config.Sources{Client: true})
}

func (a *app) load(command *cobra.Command, from config.Sources) (config.Config, error) {
	file, err := command.Flags().GetString(configFlag)
	if err != nil {
		return config.Config{}, err
	}
	from.File, from.Environ, from.Flags = file, a.environ, command.Flags()
	return config.Load(from)
}
