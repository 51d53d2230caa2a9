package main

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestFirstSignalStopsSecondExits(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	signals := make(chan os.Signal)
	status := make(chan int, 1)
	go stopOn(signals, cancel, func(code int) { status <- code })

	signals <- syscall.SIGTERM
	<-ctx.Done()
	if cause := context.Cause(ctx); !strings.Contains(cause.Error(), "terminated") {
		t.Errorf("the cause is %q; want the signal", cause)
	}
	select {
	case code := <-status:
		t.Fatalf("exit with %d after the first signal", code)
	default:
	}

	signals <- os.Interrupt
	if code := <-status; code != 130 {
		t.Errorf("exit status %d after SIGINT; want 130", code)
	}
}
