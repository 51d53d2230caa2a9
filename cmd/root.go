// Package cmd is the command line of kvbus: one file a command, the wiring of
// the rooms below it, and the logger.
//
// # Exit status
//
// [Execute] returns what the process exits with:
//
//   - 0: done, or stopped in order after a signal;
//   - 1: it failed, or the configuration file or the environment is wrong;
//   - 2: the command line is wrong: an unknown command or flag, an argument
//     too many, a flag's value that breaks a rule or contradicts another
//     setting. Nothing was started.
//
// An error is printed once, to standard error, as "kvbus: …". A second signal
// ends the process with 128 plus its number, which is main's business.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"kvbus/config"
)

// The exit statuses of Execute.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// Execute runs the command that args name, without the program's own name, in
// the environment of the process, and returns the exit status. Cancelling ctx
// stops it in order; the cause of ctx says why, for the log.
func Execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := app{stdin: stdin, stdout: stdout, stderr: stderr, environ: os.Environ()}
	return a.execute(ctx, args)
}

// app is what a command has of the world around it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string // KEY=value
}

func (a *app) execute(ctx context.Context, args []string) int {
	root := a.rootCommand()
	printed := &printer{to: a.stdout}
	root.SetOut(printed)
	addBuiltin(root)
	// Cobra takes the arguments of the process where it is given nil.
	root.SetArgs(append([]string{}, args...))

	command, err := root.ExecuteContextC(ctx)
	if err == nil && printed.err != nil {
		err = &runError{printed.err}
	}
	if err == nil {
		return exitOK
	}
	status := exitStatus(err)
	a.report(command, err, status)
	return status
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "kvbus",
		Short: "A key-value service on the NATS bus",
		Long: `kvbus is a key-value service on the NATS bus: values with deadlines, counters,
compare-and-swap and watching, for any NATS client and without a library.

The exit status is 0 when all went well, 1 after an error, and 2 when the
command line is wrong.`,
		Example: `  # A worker with its own NATS server and a store in memory
  kvbus serve

  # Use it, with the nats command
  nats request kv.set.color blue
  nats request kv.get.color ''
  nats subscribe 'kv.events.>'

  # See every change, and miss none
  kvbus watch --state

  # Every setting, with its meaning, as a file to start from
  kvbus config > kvbus.yaml`,
		Version:       readBuild().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetErr(a.stderr)
	root.SetVersionTemplate(readBuild().String() + "\n")
	root.SetUsageFunc(usage)
	root.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 { // an empty one, or one after --, which cobra takes for none
			return fmt.Errorf("unknown command %q for %q", args[0], root.CommandPath())
		}
		return root.Help()
	}
	root.AddCommand(a.serveCommand(), a.watchCommand(), a.configCommand(), a.versionCommand())
	return root
}

// A printer prints what cobra has to say, and remembers the first error: cobra drops
// some, and takes others for errors of the command line.
type printer struct {
	to  io.Writer
	err error
}

func (p *printer) Write(text []byte) (int, error) {
	if p.err == nil {
		_, p.err = p.to.Write(text)
	}
	return len(text), nil
}

// runError marks what went wrong in a command, once its command line was
// accepted. All other errors that cobra returns are about the command line.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }
func (e *runError) Unwrap() error { return e.err }

// runE makes a command's body of f.
func runE(f func(*cobra.Command) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, _ []string) error {
		if err := f(command); err != nil {
			return &runError{err}
		}
		return nil
	}
}

func exitStatus(err error) int {
	if _, ran := errors.AsType[*runError](err); !ran {
		return exitUsage
	}
	if slices.ContainsFunc(config.Problems(err), func(p *config.Problem) bool { return p.CommandLine }) {
		return exitUsage
	}
	return exitError
}

// report prints err with a hint of where to look further.
func (a *app) report(command *cobra.Command, err error, status int) {
	problems := config.Problems(err)
	if len(problems) > 1 {
		fmt.Fprintf(a.stderr, "kvbus: the configuration has %d problems:\n", len(problems))
		for _, p := range problems {
			fmt.Fprintf(a.stderr, "  %v\n", p)
		}
	} else {
		fmt.Fprintf(a.stderr, "kvbus: %v\n", err)
	}
	switch {
	case len(problems) > 0:
		fmt.Fprintln(a.stderr, "Run 'kvbus config --help' for all settings.")
	case status == exitUsage:
		fmt.Fprintf(a.stderr, "Run '%s --help' for usage.\n", command.CommandPath())
	}
}
