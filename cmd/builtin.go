package cmd

import (
	"fmt"

	"github.com/spf13/cobra"
)

// addBuiltin adds cobra's help and completion commands now, and not when the
// command line is executed, to hold them to the same rule as all others: what
// they don't know is an error of usage. By themselves they print some help and
// report success. The completion command keeps the root's output as it is now.
func addBuiltin(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, command := range root.Commands() {
		switch command.Name() {
		case "help":
			command.Args = knownTopic
		case "completion":
			command.RunE = func(command *cobra.Command, _ []string) error { return command.Help() }
		}
	}
}

func knownTopic(help *cobra.Command, args []string) error {
	if _, rest, err := help.Root().Find(args); err != nil {
		return err
	} else if len(rest) > 0 {
		return fmt.Errorf("unknown help topic %q", args)
	}
	return nil
}
