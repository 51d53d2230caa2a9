package config_test

import (
	"strings"
	"testing"

	"kvbus/bus"
	"kvbus/config"
)

// A prefix that passes the check is one that the bus takes, and the other way
// round.
func FuzzPrefix(f *testing.F) {
	for _, prefix := range []string{"kv", "team.kv", "größe", "a..b", ".a", "$a", "a.$b", "a.*", "a b", "\xff", "a\u0085", "{{a}}", "a{b}}", "_INBOX", "_INBOX.a", "_INBOXa", strings.Repeat("p", 257)} {
		f.Add(prefix)
	}
	f.Fuzz(func(t *testing.T, prefix string) {
		if prefix == "" {
			return // the default of the bus; here it must be written out
		}
		cfg := config.Default()
		cfg.Bus.Prefix = prefix
		checked := cfg.Validate()
		if _, err := bus.NewSubjects(prefix); (err == nil) != (checked == nil) {
			t.Errorf("prefix %q: the check says %v, the bus %v", prefix, checked, err)
		}
	})
}
