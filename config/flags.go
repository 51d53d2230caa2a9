package config

import (
	"reflect"

	"github.com/spf13/pflag"
)

// RegisterFlags adds the flag of every setting that has one. A flag takes the
// same text as the environment variable, refuses text that is no value of the
// setting's type when it is parsed, and shows the setting's default in help.
// Pass the set to [Load] once it is parsed.
func RegisterFlags(flags *pflag.FlagSet) {
	for _, s := range Settings() {
		if s.Flag == "" {
			continue
		}
		flag := flags.VarPF(&flagValue{setting: s, text: s.Default}, s.Flag, "", s.Usage)
		if s.typ.Kind() == reflect.Bool {
			flag.NoOptDefVal = "true" // --replicated is --replicated=true
		}
	}
}

// flagValue keeps a flag as text: the decoder makes the one conversion of a
// setting, whichever layer it came from.
type flagValue struct {
	setting Setting
	text    string
}

func (v *flagValue) String() string { return v.text }

// Type is what help calls the value. By bool it knows a switch, and shows none.
func (v *flagValue) Type() string {
	if v.setting.typ.Kind() == reflect.Bool {
		return "bool"
	}
	return v.setting.Arg
}

func (v *flagValue) Set(text string) error {
	if _, err := convert(reflect.ValueOf(text), reflect.Zero(v.setting.typ)); err != nil {
		return err
	}
	if err := checkValues(v.setting, text); err != nil {
		return err
	}
	v.text = text
	return nil
}
