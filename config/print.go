package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// WriteYAML writes every setting in the order of [Settings], each under a
// comment that describes it. What it writes is a valid configuration file that
// gives c again, but for secrets, which are masked: a file with a masked
// secret is refused, as nobody's password is "***".
func (c Config) WriteYAML(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{"": root}
	for _, s := range Settings() {
		parent, key := cutLast(s.Path)
		section := sectionNode(sections, parent)
		name := &yaml.Node{HeadComment: s.comment()}
		name.SetString(key)
		section.Content = append(section.Content, name, s.node(c))
	}
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return encoder.Close()
}

// sectionNode returns the mapping at a path, made at its first use.
func sectionNode(sections map[string]*yaml.Node, path string) *yaml.Node {
	if node, found := sections[path]; found {
		return node
	}
	parent, key := cutLast(path)
	name := &yaml.Node{}
	name.SetString(key)
	node := &yaml.Node{Kind: yaml.MappingNode}
	section := sectionNode(sections, parent)
	section.Content = append(section.Content, name, node)
	sections[path] = node
	return node
}

// cutLast splits store.replay.max_bytes into store.replay and max_bytes.
func cutLast(path string) (parent, key string) {
	if dot := strings.LastIndex(path, "."); dot >= 0 {
		return path[:dot], path[dot+1:]
	}
	return "", path
}

func (s Setting) comment() string {
	if s.Flag == "" {
		return fmt.Sprintf("# %s [%s]", s.Usage, s.Env)
	}
	return fmt.Sprintf("# %s [--%s, %s]", s.Usage, s.Flag, s.Env)
}

func (s Setting) node(c Config) *yaml.Node {
	value := s.value(c)
	node := &yaml.Node{}
	switch value.Kind() {
	case reflect.Int:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!int", valueText(value)
	case reflect.Bool:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!bool", valueText(value)
	default:
		node.SetString(valueText(value))
	}
	return node
}

// WriteReference writes the reference of all settings as a Markdown table.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| setting | flag | environment | default | meaning |\n|---|---|---|---|---|\n")
	for _, s := range Settings() {
		flag := ""
		if s.Flag != "" {
			flag = "--" + s.Flag
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n",
			code(s.Path), code(flag), code(s.Env), code(s.Default), strings.ReplaceAll(s.Usage, "|", `\|`))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write reference: %w", err)
	}
	return nil
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
