package cmd

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func (a *app) serveCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "serve",
		Short: "Run a worker, with its own NATS server unless told of another",
		Long: `Run a worker. Without --nats-url or --nats-context it runs a NATS server of its
own, in the same process.

The first SIGINT, SIGTERM or SIGHUP stops it in order: requests that were taken
are answered, for at most --drain-timeout. A second one ends it at once, with
the exit status 128 plus the signal's number. A SIGHUP that is ignored at the
start, as after nohup, stays ignored. Settings are read at the start only.

Settings come from flags, then the environment, then the file, then the
defaults; see 'kvbus config --help'.`,
		Example: `  # Its own server on 127.0.0.1:4222, and a store in memory
  kvbus serve

  # A server that somebody else runs
  kvbus serve --nats-url nats://nats.example.com:4222 --creds worker.creds

  # The same from the environment
  KVBUS_NATS__URL=nats://nats.example.com:4222 kvbus serve`,
		Args: cobra.NoArgs,
		RunE: runE(func(command *cobra.Command) error {
			cfg, err := a.loadConfig(command)
			if err != nil {
				return err
			}
			// The end of who reads the log, as of tee at Ctrl-C, is not that of the
			// worker. It stays so for the error at its end.
			signal.Ignore(syscall.SIGPIPE)
			return run(command.Context(), cfg, newLogger(a.stderr, cfg.Log, a.environ))
		}),
	}
	addSettings(command)
	return command
}

// hostName names a worker that was given no name. It stays the same over
// restarts, which a name made up at random would not.
func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "kvbus"
	}
	return name
}
