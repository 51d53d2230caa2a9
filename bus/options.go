package bus

import (
	"fmt"

	"kvbus/kv"
)

// A bound is an option that is a number or a duration, and 0 for its default.
type bound struct {
	name  string
	value int64
}

func checkBounds(bounds []bound) error {
	for _, b := range bounds {
		if b.value < 0 {
			return fmt.Errorf("%w: %s is %d; it is 0 (the default) or more", kv.ErrInvalidArgument, b.name, b.value)
		}
	}
	return nil
}
