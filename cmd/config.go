package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"kvbus/config"
)

func (a *app) configCommand() *cobra.Command {
	var check, reference bool
	command := &cobra.Command{
		Use:   "config",
		Short: "Print or check the effective configuration",
		Long: `Print the configuration that 'kvbus serve' would run with, given the same file,
environment and flags. The output is a configuration file with a comment on
each setting; secrets are masked.

A flag covers an environment variable, which covers the file, which covers the
default. The environment variable of a setting is KVBUS_ and its path in upper
case, with two underscores between levels: KVBUS_STORE__MAX_KEYS in the
environment is this in the file:

  store:
    max_keys: 10000

What is not a setting is an error, in the file and in the environment. A
duration needs a unit (500ms, 10s). A size is a number of bytes, or has a unit
(64KiB, 1MiB, 2GiB, or KB, MB, GB for powers of 1000).`,
		Example: `  # A file to start from
  kvbus config > kvbus.yaml

  # Is this file all right?
  kvbus config --check --config kvbus.yaml

  # All settings as a Markdown table
  kvbus config --reference`,
		Args: cobra.NoArgs,
		RunE: runE(func(command *cobra.Command) error {
			if reference {
				return config.WriteReference(a.stdout)
			}
			cfg, err := a.loadConfig(command)
			if err != nil {
				return err
			}
			if check {
				_, err := fmt.Fprintln(a.stdout, "ok")
				return err
			}
			return cfg.WriteYAML(a.stdout)
		}),
	}
	command.Flags().BoolVar(&check, "check", false, "only say whether the configuration is valid: print ok, or every problem")
	command.Flags().BoolVar(&reference, "reference", false, "print all settings as a Markdown table instead")
	command.MarkFlagsMutuallyExclusive("check", "reference")
	addSettings(command)
	return command
}
