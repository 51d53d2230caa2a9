package config_test

import (
	"os"
	"strings"
	"testing"

	"kvbus/config"
)

func TestOperatingHasTheReference(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../cmd/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(text), "<!-- config reference -->\n")
	got, _, ends := strings.Cut(rest, "<!-- end of config reference -->\n")
	if !begins || !ends {
		t.Fatal("OPERATING.md does not mark its table of settings")
	}
	var want strings.Builder
	if err := config.WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	if got != want.String() {
		t.Errorf("OPERATING.md has another table than this, which kvbus config --reference prints:\n%s", want.String())
	}
}
