// Command kvbus is a key-value service on the NATS bus. Run kvbus --help.
//
// The first SIGINT, SIGTERM or SIGHUP stops it in order, a second one ends it at once
// with the exit status 128 plus the signal's number, as a shell reports a
// process that a signal ended. A SIGHUP that was ignored at the start, as nohup has it,
// stays so. All other statuses are those of kvbus/cmd.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"kvbus/cmd"
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	// Room for both signals that count: neither is lost while the first is
	// being dealt with.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	go stopOn(signals, cancel, os.Exit)

	os.Exit(cmd.Execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// stopOn asks for an orderly stop at the first signal and exits at the second.
// It waits for as long as the process lives.
func stopOn(signals <-chan os.Signal, cancel context.CancelCauseFunc, exit func(int)) {
	first := <-signals
	cancel(fmt.Errorf("received signal: %v", first))
	second := <-signals
	exit(exitStatus(second))
}

func exitStatus(s os.Signal) int {
	if number, ok := s.(syscall.Signal); ok {
		return 128 + int(number)
	}
	return 1
}
