package e2e

import (
	"fmt"
	"regexp"
	"strings"
)

// A step is a command of a document and what is written to be its output.
type step struct {
	line       int // of the command in the document
	command    string
	background bool // it ends with &
	want       []string
}

// A block is a fenced code block of a document.
type block struct {
	line     int // of the fence
	language string
	lines    []string
}

// parseBlocks returns the fenced blocks of a Markdown document.
func parseBlocks(document string) []block {
	var blocks []block
	fence := ""
	indent := 0
	for i, text := range strings.Split(document, "\n") {
		trimmed := strings.TrimLeft(text, " ")
		marks := trimmed[:len(trimmed)-len(strings.TrimLeft(trimmed, "`"))]
		switch {
		case fence == "" && len(marks) >= 3:
			fence, indent = marks, len(text)-len(trimmed)
			language, _, _ := strings.Cut(strings.TrimSpace(trimmed[len(marks):]), " ")
			blocks = append(blocks, block{line: i + 1, language: language})
		case fence != "" && strings.TrimSpace(trimmed) == fence:
			fence = ""
		case fence != "":
			b := &blocks[len(blocks)-1]
			b.lines = append(b.lines, text[min(indent, len(text)-len(trimmed)):])
		}
	}
	return blocks
}

// parseSession returns the steps of a document's console blocks:
//
//	# a comment
//	$ command
//	a part of what it prints
//	...
//	$ command &
//	a part of what it prints in the background, before the session ends
//
// A command goes on in the next line after a backslash. A line of dots stands
// for any output, and so for none at all.
func parseSession(document string) ([]step, error) {
	var steps []step
	for _, b := range parseBlocks(document) {
		if b.language != "console" {
			continue
		}
		for i := 0; i < len(b.lines); i++ {
			text, line := b.lines[i], b.line+i+1
			command, isCommand := strings.CutPrefix(text, "$ ")
			switch {
			case isCommand:
				for strings.HasSuffix(command, `\`) && i+1 < len(b.lines) {
					i++
					command = strings.TrimSuffix(command, `\`) + b.lines[i]
				}
				foreground, background := strings.CutSuffix(strings.TrimSpace(command), "&")
				steps = append(steps, step{line: line, command: strings.TrimSpace(foreground), background: background})
			case strings.TrimSpace(text) == "", strings.TrimSpace(text) == "...", strings.HasPrefix(text, "# "):
			case len(steps) == 0:
				return nil, fmt.Errorf("line %d: there is output before any command: %s", line, text)
			default:
				last := &steps[len(steps)-1]
				last.want = append(last.want, strings.TrimSpace(text))
			}
		}
	}
	return steps, nil
}

// missing compares what a command printed with what a document says, and
// returns the first line of the document that is not there.
//
// The lines of the document are parts of lines of the output, in the same
// order; several may be parts of one line. But headers, which the nats command
// prints in any order, may stand in any order for each message. A line that is
// no header is not looked for among headers, and a number is not looked for
// within a longer one.
func missing(want []string, output string) (line string, found bool) {
	groups := groupHeaders(output)
	at := 0
	for _, line := range want {
		for ; at < len(groups); at++ {
			if groups[at].take(line) {
				break
			}
		}
		if at == len(groups) {
			return line, true
		}
	}
	return "", false
}

// A group is a line of output, or several headers in a row.
type group struct {
	headers bool
	rest    []string // of each line, what was not taken yet
}

var header = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*:( |$)`)

func groupHeaders(output string) []*group {
	var groups []*group
	for text := range strings.Lines(untimed(output)) {
		text = strings.TrimSpace(text)
		isHeader := header.MatchString(text)
		if last := len(groups) - 1; isHeader && last >= 0 && groups[last].headers {
			groups[last].rest = append(groups[last].rest, text)
		} else {
			groups = append(groups, &group{headers: isHeader, rest: []string{text}})
		}
	}
	return groups
}

// take finds part in the group and takes it out, with what is before it.
func (g *group) take(part string) bool {
	if g.headers != header.MatchString(part) {
		return false
	}
	for i, rest := range g.rest {
		if end := endOf(part, rest); end >= 0 {
			g.rest[i] = rest[end:]
			return true
		}
	}
	return false
}

// endOf returns where part ends in text, or -1. A number is found only whole.
func endOf(part, text string) int {
	for start := 0; ; start++ {
		i := strings.Index(text[start:], part)
		if i < 0 {
			return -1
		}
		start += i
		end := start + len(part)
		if !splitsNumber(text, start) && !splitsNumber(text, end) {
			return end
		}
	}
}

// splitsNumber reports whether there is a digit on both sides of i.
func splitsNumber(text string, i int) bool {
	digit := func(b byte) bool { return '0' <= b && b <= '9' }
	return 0 < i && i < len(text) && digit(text[i-1]) && digit(text[i])
}
