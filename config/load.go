package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	koanfmaps "github.com/knadh/koanf/maps"
	koanfyaml "github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// Sources says where [Load] looks. The zero value gives the defaults.
type Sources struct {
	// File is a YAML file. Where it is empty, KVBUS_CONFIG in Environ may name
	// one. A file that is named must be there; an empty one is fine.
	File string

	// Environ has KEY=value pairs as os.Environ returns them.
	Environ []string

	// Flags is a parsed set with the flags of [RegisterFlags]; others in it
	// are passed over. Nil means none.
	Flags *pflag.FlagSet

	// Client is for a client of the service: what only a worker needs is as in
	// the defaults, and NATS names an external server in any case.
	Client bool
}

// Load returns the validated configuration of all layers. The error has every
// [Problem] found: first what can't be read as settings at all, and once there
// is nothing of that kind, what [Config.Validate] reports. It names flags that are
// in Flags only.
func Load(from Sources) (Config, error) {
	cfg, err := load(from)
	for _, p := range Problems(err) {
		if from.Flags != nil && from.Flags.Lookup(p.Flag) == nil {
			p.Flag = ""
		}
	}
	return cfg, err
}

func load(from Sources) (Config, error) {
	l := loader{
		koanf:    koanf.New("."),
		settings: Settings(),
		origins:  origins{},
	}
	if err := l.loadFile(configFile(from)); err != nil {
		return Config{}, err
	}
	if err := l.loadEnviron(from.Environ); err != nil {
		return Config{}, err
	}
	if err := l.loadFlags(from.Flags); err != nil {
		return Config{}, err
	}
	cfg := Default()
	l.problems = append(l.problems, decode(l.koanf, &cfg, l.settings, l.origins)...)
	if len(l.problems) > 0 {
		return Config{}, join(l.problems)
	}
	if from.Client {
		cfg = cfg.client()
	}
	if problems := cfg.problems(); len(problems) > 0 {
		l.origins.annotate(problems)
		return Config{}, join(problems)
	}
	return cfg, nil
}

// configFile is the file to read: the one given, or the one of the environment.
func configFile(from Sources) string {
	if from.File != "" {
		return from.File
	}
	for _, pair := range from.Environ {
		if path, found := strings.CutPrefix(pair, EnvFile+"="); found {
			return path
		}
	}
	return ""
}

// loader gathers the layers and what is wrong with them.
type loader struct {
	koanf    *koanf.Koanf
	settings []Setting
	origins  origins
	problems []*Problem
}

func (l *loader) loadFile(path string) error {
	if path == "" {
		return nil
	}
	check := func(section, merged map[string]any) error {
		l.checkSection(section, "", "file "+path)
		koanfmaps.Merge(section, merged)
		return nil
	}
	err := l.koanf.Load(file.Provider(path), oneDocument{koanfyaml.Parser()}, koanf.WithMergeFunc(check))
	if err != nil {
		return fmt.Errorf("config file %s: %w", path, err)
	}
	return nil
}

// checkSection reports the keys that are no settings and takes them out. Only
// here, before the layers are merged, can a key be named together with the
// file that it is in.
func (l *loader) checkSection(section map[string]any, parent, source string) {
	for _, key := range slices.Sorted(maps.Keys(section)) {
		path := key
		if key == "" {
			path = `""`
		}
		if parent != "" {
			path = parent + "." + path
		}
		rule := ""
		switch child, isMap := section[key].(map[string]any); {
		case strings.Contains(key, "."):
			rule = "must be written as nested keys, none with a dot in it"
		case l.isSection(path) && isMap:
			l.checkSection(child, path, source)
		case l.isSection(path) && section[key] != nil:
			rule = "must be a section with settings in it"
		case l.isSection(path):
			// A section without anything in it, as when all of it is
			// commented out.
		case l.isSetting(path):
			l.origins[path] = origin{name: source}
		default:
			rule = "no such setting" + l.suggest(path, func(s Setting) string { return s.Path })
		}
		if rule != "" {
			l.unknown(path, rule, source)
			delete(section, key)
		}
	}
}

func (l *loader) isSetting(path string) bool {
	return slices.ContainsFunc(l.settings, func(s Setting) bool { return s.Path == path })
}

func (l *loader) isSection(path string) bool {
	return slices.ContainsFunc(l.settings, func(s Setting) bool { return strings.HasPrefix(s.Path, path+".") })
}

func (l *loader) loadEnviron(environ []string) error {
	byEnv := make(map[string]Setting, len(l.settings))
	for _, s := range l.settings {
		byEnv[s.Env] = s
	}
	return l.koanf.Load(env.Provider(".", env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			s, found := byEnv[name]
			if !found {
				if name != EnvFile && !fromKubernetes(name, value) {
					l.unknown(name, "no such setting"+l.suggest(name, func(s Setting) string { return s.Env }), "the environment")
				}
				return "", nil
			}
			l.origins[s.Path] = origin{name: "environment variable " + name}
			return s.Path, value
		},
	}), nil)
}

func (l *loader) loadFlags(flags *pflag.FlagSet) error {
	if flags == nil {
		return nil
	}
	byFlag := make(map[string]Setting, len(l.settings))
	for _, s := range l.settings {
		if s.Flag != "" {
			byFlag[s.Flag] = s
		}
	}
	// Without a Koanf to look into, the provider takes changed flags alone;
	// given one, it would fill what no lower layer sets from the flags'
	// defaults, which here are the defaults of the struct already.
	return l.koanf.Load(posflag.ProviderWithFlag(flags, ".", nil, func(f *pflag.Flag) (string, any) {
		s, found := byFlag[f.Name]
		if !found {
			return "", nil
		}
		if f.Changed {
			l.origins[s.Path] = origin{name: "flag --" + f.Name, flag: true}
		}
		return s.Path, f.Value.String()
	}), nil)
}

func (l *loader) unknown(path, rule, source string) {
	l.problems = append(l.problems, &Problem{Path: path, Rule: rule, Source: source})
}

// suggest finds the setting that differs from name in case and punctuation
// only: the usual slip is one underscore for two, or maxKeys for max_keys.
func (l *loader) suggest(name string, nameOf func(Setting) string) string {
	letters := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", ".", "").Replace(s))
	}
	for _, s := range l.settings {
		if letters(nameOf(s)) == letters(name) {
			return "; did you mean " + nameOf(s) + "?"
		}
	}
	return ""
}

// kubernetesLink is what Kubernetes sets in each container of a namespace with
// a service whose name begins with kvbus: KVBUS_SERVICE_HOST=10.0.0.1,
// KVBUS_PORT=tcp://10.0.0.1:4222, KVBUS_PORT_4222_TCP_ADDR=10.0.0.1. A worker
// must start beside such a service, but KVBUS_PORT=4222 is a mistake.
var kubernetesLink = regexp.MustCompile(`^[A-Z0-9_]+_(` +
	`(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)=` +
	`|PORT=(tcp|udp|sctp)://)`)

func fromKubernetes(name, value string) bool {
	return !strings.Contains(name, "__") && kubernetesLink.MatchString(name+"="+value)
}

// oneDocument refuses what follows a second "---", and keys that are null, which the
// parser would leave unread.
type oneDocument struct{ koanf.Parser }

func (p oneDocument) Unmarshal(text []byte) (map[string]any, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for document := 1; ; document++ {
		var node yaml.Node
		if err := decoder.Decode(&node); errors.Is(err, io.EOF) {
			return p.Parser.Unmarshal(text)
		} else if err != nil {
			return nil, err
		}
		if line := nullKey(&node); line > 0 {
			return nil, fmt.Errorf("line %d: a key must be the name of a setting, not null", line)
		}
		if document > 1 {
			return nil, errors.New("must be one YAML document, and there is a second one")
		}
	}
}

// nullKey returns the line of the first key that is null; 0 where there is none.
func nullKey(node *yaml.Node) int {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 && child.ShortTag() == "!!null" {
			return child.Line
		}
		if line := nullKey(child); line > 0 {
			return line
		}
	}
	return 0
}

func join(problems []*Problem) error {
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}
