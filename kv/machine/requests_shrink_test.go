package machine

import (
	"fmt"
	"math"
	"testing"
	"time"

	"kvbus/kv"
)

// Where many requests were remembered and few are, the index has room for few, and
// still finds them.
func TestRequestsShrink(t *testing.T) {
	m := New(Options{ReplayEvents: 1, Limits: kv.Limits{MaxRequestIDs: math.MaxInt64, MaxRequestAge: time.Hour}})
	const many, few = 20_000, 100
	request := func(i int) (kv.Result, error) {
		return m.Apply(int64(1+i), &kv.Command{Op: kv.OpIncrement, Key: "n", Delta: 1, RequestID: fmt.Sprint(i)})
	}
	for i := range many {
		if _, err := request(i); err != nil {
			t.Fatal(err)
		}
	}
	limits := kv.Limits{MaxRequestIDs: few, MaxRequestAge: time.Hour}
	if _, err := m.Apply(many, &kv.Command{Op: kv.OpSetLimits, Limits: limits}); err != nil {
		t.Fatal(err)
	}
	if n := m.requests.room; n > keptRequests {
		t.Errorf("%d requests take the room of %d", few, n)
	}
	for i := many - few; i < many; i++ {
		if r, err := request(i); err != nil || r.Number != int64(i+1) {
			t.Errorf("request %d once more: %+v, %v", i, r, err)
		}
	}
	if r, err := request(0); err != nil || r.Number != many+1 {
		t.Errorf("a request that was forgotten: %+v, %v", r, err)
	}
}
