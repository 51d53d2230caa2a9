package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"
)

// decode puts the merged layers onto the defaults in cfg.
func decode(layers *koanf.Koanf, cfg *Config, settings []Setting, from origins) []*Problem {
	err := layers.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{
		DecoderConfig: &mapstructure.DecoderConfig{
			DecodeHook:  mapstructure.DecodeHookFuncValue(convertValue),
			ErrorUnused: true,
			MatchName:   func(key, field string) bool { return key == field },
		},
	})
	known := byPath(settings)
	var problems []*Problem
	eachDecodeError(err, func(path string, err error) {
		s, found := known[path]
		p := &Problem{Path: path, Flag: s.Flag, Rule: err.Error()}
		if bad, ok := errors.AsType[*conversionError](err); ok && found && !s.Secret {
			p.Value = bad.value
		} else if s.Secret {
			p.Value = mask
		}
		problems = append(problems, p)
	})
	slices.SortFunc(problems, func(a, b *Problem) int { return strings.Compare(a.Path, b.Path) })
	from.annotate(problems)
	return problems
}

// eachDecodeError takes the decoder's tree of errors apart, and reports the
// path and the cause of each.
func eachDecodeError(err error, report func(path string, err error)) {
	switch e := err.(type) {
	case nil:
	case *mapstructure.DecodeError:
		report(e.Name(), e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			eachDecodeError(err, report)
		}
	case interface{ Unwrap() error }: // the decoder's headline
		eachDecodeError(e.Unwrap(), report)
	default:
		report("configuration", err)
	}
}

// conversionError is a value that its setting's type refuses. Its text is the
// rule alone: the value may be a secret, and is shown or masked by who knows.
type conversionError struct {
	value string
	rule  string
}

func (e *conversionError) Error() string { return e.rule }

// convertValue is the decode hook: sections pass, values are converted.
func convertValue(from, to reflect.Value) (any, error) {
	if to.Kind() == reflect.Struct {
		return from.Interface(), nil
	}
	return convert(from, to)
}

// convert makes a value of to's type, from text (the environment, flags) or
// from what YAML made of it. It is stricter than the decoder, which would take
// 1.9 for 1 and a bare number for nanoseconds.
func convert(from, to reflect.Value) (any, error) {
	switch to.Interface().(type) {
	case Size:
		return convertSize(from)
	case time.Duration:
		return convertDuration(from)
	case int:
		return convertInt(from)
	case bool:
		return convertBool(from)
	default:
		if from.Kind() != reflect.String {
			return nil, refuse(from, "must be text: put it in quotes")
		}
		return from.Interface(), nil
	}
}

func convertSize(from reflect.Value) (any, error) {
	switch {
	case from.Kind() == reflect.String:
		size, err := ParseSize(from.String())
		if err != nil {
			return nil, refuse(from, err.Error())
		}
		return size, nil
	case from.CanInt() && from.Int() >= 0:
		return Size(from.Int()), nil
	case from.CanUint():
		return nil, refuse(from, errSizeRange.Error())
	default:
		return nil, refuse(from, errSizeSyntax.Error())
	}
}

func convertDuration(from reflect.Value) (any, error) {
	const rule = "must be a duration with a unit (500ms, 10s, 1m30s)"
	if from.Kind() != reflect.String {
		return nil, refuse(from, rule)
	}
	// ParseDuration takes a bare 0; here no bare number is one.
	if _, err := strconv.ParseFloat(from.String(), 64); err == nil {
		return nil, refuse(from, rule)
	}
	d, err := time.ParseDuration(from.String())
	if err != nil {
		return nil, refuse(from, rule)
	}
	return d, nil
}

func convertInt(from reflect.Value) (any, error) {
	switch {
	case from.Kind() == reflect.String:
		n, err := strconv.Atoi(from.String())
		if errors.Is(err, strconv.ErrRange) {
			return nil, refuse(from, "is outside the range of whole numbers")
		}
		if err != nil {
			return nil, refuse(from, "must be a whole number")
		}
		return n, nil
	case from.CanInt():
		if from.Int() != int64(int(from.Int())) {
			return nil, refuse(from, "is outside the range of whole numbers")
		}
		return int(from.Int()), nil
	case from.CanUint():
		return nil, refuse(from, "is outside the range of whole numbers")
	default:
		return nil, refuse(from, "must be a whole number")
	}
}

// convertBool takes the two words alone: what else the standard library reads as
// true (1, t, TRUE) is more often a slip.
func convertBool(from reflect.Value) (any, error) {
	switch from.Interface() {
	case true, "true":
		return true, nil
	case false, "false":
		return false, nil
	default:
		return nil, refuse(from, "must be true or false")
	}
}

func refuse(from reflect.Value, rule string) error {
	value := fmt.Sprint(from.Interface())
	if from.Kind() == reflect.String {
		value = strconv.Quote(value)
	}
	return &conversionError{value: value, rule: rule}
}
