package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// EnvPrefix begins the name of each environment variable of kvbus.
const EnvPrefix = "KVBUS_"

// EnvFile names the environment variable that gives the configuration file
// where no flag does.
const EnvFile = EnvPrefix + "CONFIG"

// Setting describes one setting: a row of the reference.
type Setting struct {
	Path    string   // in the file, with dots between levels: store.max_keys
	Flag    string   // without dashes; empty where there is none
	Env     string   // the environment variable
	Arg     string   // what to call the value in help: size, file; empty for a switch
	Default string   // as text; empty where the default is
	Usage   string   // one line of meaning
	Group   string   // heading in help
	Values  []string // the only values allowed; nil where they are not listed
	Secret  bool     // shown masked

	index []int
	typ   reflect.Type
}

// Settings returns all settings in the order of the fields of [Config]. The
// slice belongs to the caller.
func Settings() []Setting {
	return appendSettings(nil, reflect.ValueOf(Default()), Setting{Group: "General"})
}

// appendSettings walks a struct. parent carries what the fields inherit: path,
// group and index.
func appendSettings(settings []Setting, section reflect.Value, parent Setting) []Setting {
	for field, value := range section.Fields() {
		tag := field.Tag
		s := Setting{
			Path:  tag.Get("koanf"),
			Group: parent.Group,
			index: append(slices.Clone(parent.index), field.Index...),
		}
		if parent.Path != "" {
			s.Path = parent.Path + "." + s.Path
		}
		if field.Type.Kind() == reflect.Struct {
			if group := tag.Get("group"); group != "" {
				s.Group = group
			}
			settings = appendSettings(settings, value, s)
			continue
		}
		s.Flag = tag.Get("flag")
		s.Env = envName(s.Path)
		s.Arg = tag.Get("arg")
		s.Default = valueText(value)
		s.Usage = tag.Get("usage")
		if values := tag.Get("values"); values != "" {
			s.Values = strings.Split(values, ",")
		}
		s.Secret = field.Type == reflect.TypeFor[Secret]() || field.Type == reflect.TypeFor[URLs]()
		s.typ = field.Type
		settings = append(settings, s)
	}
	return settings
}

func envName(path string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "__"))
}

// value is the field of c that the setting is about.
func (s Setting) value(c Config) reflect.Value {
	return reflect.ValueOf(c).FieldByIndex(s.index)
}

// quoted shows the value in c for an error message.
func (s Setting) quoted(c Config) string {
	value := s.value(c)
	if value.Kind() == reflect.String {
		return strconv.Quote(valueText(value))
	}
	return valueText(value)
}

// valueText is how a value is written by people; secrets are masked because
// their String is.
func valueText(value reflect.Value) string { return fmt.Sprint(value.Interface()) }

// byPath indexes the settings.
func byPath(settings []Setting) map[string]Setting {
	index := make(map[string]Setting, len(settings))
	for _, s := range settings {
		index[s.Path] = s
	}
	return index
}
