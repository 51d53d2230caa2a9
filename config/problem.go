package config

import "strings"

// Problem is one thing that is wrong with the configuration. [Load] and
// [Config.Validate] return all of them, joined; [Problems] takes them apart.
type Problem struct {
	Path   string // the setting, or the key or variable that is none
	Flag   string // the setting's flag without dashes; empty where it has none
	Value  string // as given, text in quotes, secrets masked; may be empty
	Rule   string // what does not hold
	Source string // the layer that set it: "flag --max-keys"; empty for a default

	// CommandLine says that a flag set this setting, or another one that the
	// rule is about: the command line is at fault, or part of the fault.
	CommandLine bool

	// others are further settings that the rule is about.
	others []string
}

// Error returns everything that is known, in one line.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Path)
	if p.Flag != "" {
		b.WriteString(" (--" + p.Flag + ")")
	}
	if p.Value != "" {
		b.WriteString(" is " + p.Value)
	}
	b.WriteString(": " + p.Rule)
	if p.Source != "" {
		b.WriteString("; set by " + p.Source)
	}
	return b.String()
}

// Problems returns each [Problem] in err, in order; none where err is of
// another kind, such as a file that can't be read.
func Problems(err error) []*Problem {
	switch e := err.(type) {
	case *Problem:
		return []*Problem{e}
	case interface{ Unwrap() []error }:
		var all []*Problem
		for _, err := range e.Unwrap() {
			all = append(all, Problems(err)...)
		}
		return all
	case interface{ Unwrap() error }:
		return Problems(e.Unwrap())
	default:
		return nil
	}
}

// origins remembers the layer that had the last word on each setting.
type origins map[string]origin

type origin struct {
	name string
	flag bool
}

// annotate fills in where the settings of each problem came from.
func (o origins) annotate(problems []*Problem) {
	for _, p := range problems {
		from := o[p.Path]
		p.Source, p.CommandLine = from.name, from.flag
		for _, other := range p.others {
			p.CommandLine = p.CommandLine || o[other].flag
		}
	}
}
