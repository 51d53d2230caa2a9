package e2e

import (
	"bytes"
	"strings"
	"sync"
	"time"
)

// output collects what processes print, and tells those who wait for it.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next change; nil if nobody waits
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	text, _ := o.next()
	return text
}

// next returns the text so far, and a channel that tells when there is more.
func (o *output) next() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return o.text.String(), o.changed
}

// await waits until the text is as holds wants it. It gives up, and returns
// false, when there will be no more text because ended was closed, and when it
// has waited too long.
func (o *output) await(ended <-chan struct{}, holds func(text string) bool) bool {
	deadline := time.After(patience)
	for {
		text, changed := o.next()
		if holds(text) {
			return true
		}
		select {
		case <-changed:
		case <-ended:
			return holds(o.String())
		case <-deadline:
			return false
		}
	}
}

// containing is a condition for await: the text has all of the parts.
func containing(parts ...string) func(string) bool {
	return func(text string) bool {
		for _, part := range parts {
			if !strings.Contains(text, part) {
				return false
			}
		}
		return true
	}
}
