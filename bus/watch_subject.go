package bus

import (
	"strings"

	"kvbus/kv"
)

// selectionSubject returns the narrowest subject on which all events of the keys
// that prefix and filter select are published. A prefix that ends within a token
// needs a wider one.
func (s Subjects) selectionSubject(prefix string, filter kv.Filter) string {
	whole := ""
	if dot := strings.LastIndexByte(prefix, '.'); dot >= 0 {
		whole = string(appendTokens(nil, prefix[:dot]))
	}
	pattern := filter.String()
	if whole == "" {
		return s.EventPattern(filter)
	}
	tokens := strings.Split(pattern, ".")
	fixed := strings.Split(whole, ".")
	for i, token := range fixed {
		switch {
		case i == len(tokens):
			return s.EventPattern(filter) // no key is that short and has the prefix
		case tokens[i] == ">":
			tokens = append(append(tokens[:i:i], fixed[i:]...), ">")
			return s.eventsPrefix() + strings.Join(tokens, ".")
		case tokens[i] == "*":
			tokens[i] = token
		}
	}
	return s.eventsPrefix() + strings.Join(tokens, ".")
}

func (s Subjects) eventsPrefix() string { return s.prefix + "." + eventsToken + "." }
