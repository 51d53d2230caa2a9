package cmd

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kvbus/config"
)

// helpWidth is where help wraps: the width of a terminal nobody has resized.
const helpWidth = 80

// usage writes the part of a command's help that is made from its flags and
// subcommands. Flags of settings stand under the headings of their groups.
func usage(command *cobra.Command) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if command.Runnable() && command.HasParent() { // the root prints its help
		fmt.Fprintf(&b, "  %s\n", command.UseLine())
	}
	if command.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s <command>\n", command.CommandPath())
	}
	if command.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", command.Example)
	}
	writeCommands(&b, command)
	writeFlags(&b, command.LocalFlags())
	if command.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nRun '%s <command> --help' for more about a command.\n", command.CommandPath())
	}
	_, err := io.WriteString(command.OutOrStderr(), b.String())
	return err
}

func writeCommands(b *strings.Builder, command *cobra.Command) {
	if !command.HasAvailableSubCommands() {
		return
	}
	b.WriteString("\nCommands:\n")
	for _, sub := range command.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" {
			fmt.Fprintf(b, "  %-*s  %s\n", sub.NamePadding(), sub.Name(), sub.Short)
		}
	}
}

func writeFlags(b *strings.Builder, flags *pflag.FlagSet) {
	groups := groupFlags(flags)
	for _, g := range groups {
		fmt.Fprintf(b, "\n%s:\n%s", g.title, g.flags.FlagUsagesWrapped(helpWidth))
	}
	var unflagged []config.Setting
	for _, s := range config.Settings() {
		if s.Flag == "" && slices.ContainsFunc(groups, func(g flagGroup) bool { return g.title == s.Group }) {
			unflagged = append(unflagged, s)
		}
	}
	if len(unflagged) == 0 {
		return
	}
	b.WriteString("\nWithout a flag, in the file or the environment only:\n")
	for _, s := range unflagged {
		fmt.Fprintf(b, "  %s, %s\n      %s", s.Path, s.Env, s.Usage)
		if s.Default != "" {
			fmt.Fprintf(b, " (default %s)", s.Default)
		}
		b.WriteByte('\n')
	}
}

// flagGroup is a heading of help with the flags below it.
type flagGroup struct {
	title string
	flags *pflag.FlagSet
}

// groupFlags sorts flags into the groups of their settings, in the order of
// the settings; what is no setting comes last, as the flags of the command.
func groupFlags(flags *pflag.FlagSet) []flagGroup {
	var groups []flagGroup
	settings := map[string]bool{}
	for _, s := range config.Settings() {
		flag := flags.Lookup(s.Flag)
		if flag == nil {
			continue
		}
		settings[s.Flag] = true
		if len(groups) == 0 || groups[len(groups)-1].title != s.Group {
			groups = append(groups, newFlagGroup(s.Group))
		}
		groups[len(groups)-1].flags.AddFlag(flag)
	}
	rest := newFlagGroup("Flags")
	flags.VisitAll(func(flag *pflag.Flag) {
		if !settings[flag.Name] {
			rest.flags.AddFlag(flag)
		}
	})
	if rest.flags.HasAvailableFlags() {
		groups = append(groups, rest)
	}
	return groups
}

func newFlagGroup(title string) flagGroup {
	flags := pflag.NewFlagSet(title, pflag.ContinueOnError)
	flags.SortFlags = false
	return flagGroup{title, flags}
}
