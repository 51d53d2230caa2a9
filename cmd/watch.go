package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"kvbus/bus"
	"kvbus/config"
	"kvbus/kv"
)

// lastLine is how long a watch that is told to stop waits for a reader that takes nothing.
const lastLine = time.Second

func (a *app) watchCommand() *cobra.Command {
	var opts bus.FollowOptions
	var from revision
	command := &cobra.Command{
		Use:   "watch [filter]",
		Short: "Print every change of keys as a line of JSON, and miss none",
		Long: `Print every change of the keys that a filter selects, as a line of JSON each,
until it is interrupted. The filter is a NATS wildcard over keys ('user.*.name',
'user.>'); without one it is all keys.

No change is left out and none comes twice, over lost connections and restarts
too: what was missed is asked for again. Only where the service no longer holds
it, as after a long time away, or when a store in memory was restarted, the
command ends with status 1; begin anew with --state then. Warnings, such as of a
service that does not answer, go to standard error.

Each line is an object with those of these fields that it has:

  op                 SET, DELETE, EXPIRE or TOUCH (the deadline was moved);
                     with --state also STATE and READY
  key                the key
  revision           the store's revision with the change
  previous_revision  that of the key before it; 0: the key was not there
  time               when it happened
  expires_at         the key's deadline, if it has one
  value              the new value, on SET and STATE; where it is no UTF-8:
  value_base64       the new value, in base64

With --state the keys that are there come first, a STATE each. A READY follows
with the revision up to which all is told; changes while the keys are being read
stand between them.

It connects to --nats-url or --nats-context, or else where 'kvbus serve' listens
with the same nats.listen: an address in a nats-server.conf is not known here.
It waits for a server that is not there yet.`,
		Example: `  # Everything, from now on
  kvbus watch

  # What is there, and then what changes
  kvbus watch --state 'user.*.name'

  # What came after the last revision that was seen
  kvbus watch --from-revision 1042

  # The keys that expire, on another server
  kvbus watch --server nats://nats.example.com:4222 --creds me.creds |
    jq -r 'select(.op == "EXPIRE").key'`,
		Args: func(_ *cobra.Command, args []string) (err error) {
			switch len(args) {
			case 0:
				return nil
			case 1:
				opts.Filter, err = kv.ParseFilter(args[0])
				return err
			default:
				return fmt.Errorf("one filter at most, not %d; quote what the shell would expand", len(args))
			}
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: runE(func(command *cobra.Command) error {
			if command.Flags().Changed("from-revision") {
				opts.Start = kv.After(uint64(from))
			}
			cfg, err := a.loadClientConfig(command)
			if err != nil {
				return err
			}
			return a.watch(command.Context(), cfg, opts)
		}),
	}
	flags := command.Flags()
	flags.Var(&from, "from-revision", "start with the first change after this `revision`; 0: the very first")
	flags.BoolVar(&opts.State, "state", false, "print the keys that are there first")
	addClientSettings(command)
	command.MarkFlagsMutuallyExclusive("from-revision", "state")
	return command
}

// revision is the value of a flag. The errors of one that pflag has show functions.
type revision uint64

func (r *revision) String() string { return strconv.FormatUint(uint64(*r), 10) }

func (r *revision) Type() string { return "revision" }

func (r *revision) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("must be at most %d", uint64(math.MaxUint64))
	}
	if err != nil {
		return errors.New("must be a whole number, 0 or more")
	}
	*r = revision(n)
	return nil
}

// watch prints what happens until ctx ends, or nobody reads it any more.
func (a *app) watch(ctx context.Context, cfg config.Config, opts bus.FollowOptions) error {
	// A reader that has seen enough is no failure. Without this its end would be
	// that of the process too, by a signal.
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGPIPE)

	logger := newLogger(a.stderr, cfg.Log, a.environ)
	connector := connector{settings: cfg.NATS, name: "kvbus", logger: logger}
	nc, err := connector.connect(ctx, "watch", nats.MaxReconnects(-1), nats.ReconnectHandler(func(nc *nats.Conn) {
		logger.Info("reconnected to NATS", "server", connectedURL(nc))
	}))
	if err != nil {
		return unlessInterrupted(ctx, err)
	}
	defer nc.Close()
	client, err := bus.NewClient(nc, bus.ClientOptions{Prefix: cfg.Bus.Prefix})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // it never fails

	opts.Notify = func(n bus.Notice) {
		var lost error // why the connection does not come back, as a certificate that has expired
		if !nc.IsConnected() {
			lost = nc.LastError()
		}
		logNotice(ctx, logger, n, lost)
	}
	// It ends with ctx, unless it is in a write that nobody takes: only the end of the
	// process ends that.
	printed := make(chan error, 1)
	go func() { printed <- a.printChanges(ctx, client, opts) }()
	select {
	case err := <-printed:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-printed:
		return err
	case <-time.After(lastLine):
		return nil
	}
}

// printChanges prints what happens until ctx ends, or nobody reads it any more.
func (a *app) printChanges(ctx context.Context, client *bus.Client, opts bus.FollowOptions) error {
	last, _ := opts.Start.Revision()
	for change, err := range client.Follow(ctx, opts) {
		if err != nil {
			return unlessInterrupted(ctx, explain(err, last))
		}
		if err := writeChange(a.stdout, change); errors.Is(err, syscall.EPIPE) {
			return nil
		} else if err != nil {
			return fmt.Errorf("print a change: %w", err)
		}
		last = max(last, change.Revision)
	}
	return nil
}

// unlessInterrupted returns err, or nil where the command was told to stop.
func unlessInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// explain adds what to do about changes that can't be had any more, or not at all.
func explain(err error, last uint64) error {
	switch {
	case errors.Is(err, kv.ErrCompacted):
		return fmt.Errorf("the service does not hold all changes after revision %d: %w\nBegin anew with --state, which prints the keys that are there first", last, err)
	case errors.Is(err, bus.ErrNoInbox):
		return fmt.Errorf("%w\nWho may get answers below one prefix only names it with --inbox-prefix", err)
	default:
		return err
	}
}

// logNotice tells people what the watch does about its troubles.
func logNotice(ctx context.Context, logger *slog.Logger, n bus.Notice, lost error) {
	attrs := []any{"revision", n.Revision}
	if n.Err != nil {
		attrs = append(attrs, "reason", n.Err)
	}
	if lost != nil {
		attrs = append(attrs, "connection_error", lost)
	}
	switch n.Kind {
	case bus.NoticeStale:
		logger.Log(ctx, slog.LevelWarn, "the service does not answer; changes may come late", attrs...)
	case bus.NoticeLive:
		logger.Log(ctx, slog.LevelInfo, "the service answers again", attrs...)
	case bus.NoticeRepaired:
		logger.Log(ctx, slog.LevelDebug, "asked for changes that may have been missed", attrs...)
	case bus.NoticeUnaudited:
		logger.Log(ctx, slog.LevelWarn, "it was too late to tell whether all changes up to this revision came", attrs...)
	}
}
