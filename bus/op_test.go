package bus

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestOps(t *testing.T) {
	ops := Ops()
	if len(ops) != 13 {
		t.Fatalf("%d operations", len(ops))
	}
	for _, op := range ops {
		if op.Description() == "" || op.Body() == "" || op.Reply() == "" {
			t.Errorf("%v is not described", op)
		}
		if op.Writes() && opOf(op.spec().command) != op {
			t.Errorf("%v is another operation's command", op)
		}
		if spec := op.spec(); spec.honoured&spec.refused != 0 {
			t.Errorf("%v honours and refuses %v", op, (spec.honoured & spec.refused).first())
		}
	}
	if got := Op(99).String(); got != "Op(99)" {
		t.Errorf("no operation is %q", got)
	}
	if Op(0).Writes() || Op(99).Writes() {
		t.Error("what is no operation writes")
	}
}

// tableRows returns the cells of the tables' rows in a section of PROTOCOL.md.
func tableRows(t *testing.T, section string) [][]string {
	t.Helper()
	return rowsBelow(t, "\n## "+section+"\n")
}

// infoFields returns the names of the fields that PROTOCOL.md lists for info.
func infoFields(t *testing.T) []string {
	t.Helper()
	var fields []string
	for _, row := range rowsBelow(t, "\n### Info\n") {
		for name := range strings.SplitSeq(row[0], ",") {
			fields = append(fields, strings.Trim(name, " `"))
		}
	}
	return fields
}

func rowsBelow(t *testing.T, heading string) [][]string {
	t.Helper()
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), heading)
	if !found {
		t.Fatalf("PROTOCOL.md has no heading %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var rows [][]string
	for line := range strings.Lines(rest) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "|") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.Trim(cells[i], " `")
			}
			rows = append(rows, cells)
		}
	}
	return rows[2:]
}

func TestOperationsAreDocumented(t *testing.T) {
	var documented []string
	for _, row := range tableRows(t, "Subjects") {
		documented = append(documented, row[0])
		if !strings.HasPrefix(row[1], "kv."+row[0]) {
			t.Errorf("%s has the subject %s", row[0], row[1])
		}
	}
	var ours []string
	for _, op := range Ops() {
		ours = append(ours, op.String())
	}
	slices.Sort(documented)
	slices.Sort(ours)
	if !slices.Equal(documented, ours) {
		t.Errorf("PROTOCOL.md has %q, the code %q", documented, ours)
	}
}

func TestRequestHeadersAreDocumented(t *testing.T) {
	documented := map[string][]string{}
	for _, row := range tableRows(t, "Headers of requests") {
		for name := range strings.SplitSeq(row[0], ",") {
			for op := range strings.SplitSeq(row[1], ",") {
				op = strings.TrimSpace(op)
				documented[op] = append(documented[op], strings.Trim(name, " `"))
			}
		}
	}
	for _, op := range Ops() {
		want := documented[op.String()]
		got := op.Headers()
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%v takes %q, PROTOCOL.md says %q", op, got, want)
		}
	}
}
