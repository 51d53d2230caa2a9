package replicated

import (
	"testing"

	"kvbus/kv"
)

// Limits are the default where none is set, and else as they are: a single one that is
// set leaves the others without a limit.
func TestLimitsOfOptions(t *testing.T) {
	for _, tt := range []struct{ given, want kv.Limits }{
		{kv.Limits{}, kv.DefaultLimits()},
		{kv.Limits{MaxBytes: 1}, kv.Limits{MaxBytes: 1}},
	} {
		if got := (Options{Limits: tt.given}).withDefaults().Limits; got != tt.want {
			t.Errorf("limits %+v are %+v, want %+v", tt.given, got, tt.want)
		}
	}
}
