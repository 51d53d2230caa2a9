package cmd

import (
	"github.com/spf13/cobra"

	"kvbus/config"
)

// configFlag names the flag for the file; it is no setting itself.
const configFlag = "config"

// addSettings gives a command the flag of each setting and the one for the
// file, with what a shell can complete of their values.
func addSettings(command *cobra.Command) {
	flags := command.Flags()
	flags.String(configFlag, "", "YAML `file` with settings (or "+config.EnvFile+" in the environment)")
	config.RegisterFlags(flags)

	for _, s := range config.Settings() {
		if s.Flag == "" || s.Arg == "file" || s.Arg == "dir" {
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
	file, err := command.Flags().GetString(configFlag)
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(config.Sources{File: file, Environ: a.environ, Flags: command.Flags()})
}
