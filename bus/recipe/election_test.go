package recipe_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kvbus/bus/recipe"
	"kvbus/kv"
)

func campaign(t *testing.T, store kv.Store, name string) *recipe.Leadership {
	t.Helper()
	l, err := recipe.Campaign(t.Context(), store, "leader", recipe.LockOptions{TTL: ttl, Value: name})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// observe collects what is told of the leader until it is stopped.
func observe(t *testing.T, store kv.Store) (stop func() []recipe.Leader) {
	ctx, cancel := context.WithCancel(t.Context())
	var leaders []recipe.Leader
	var observing sync.WaitGroup
	observing.Go(func() {
		for leader, err := range recipe.Observe(ctx, store, "leader") {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
			leaders = append(leaders, leader)
		}
		t.Error("no error at the end")
	})
	return func() []recipe.Leader {
		cancel()
		observing.Wait()
		return leaders
	}
}

func TestElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		early := observe(t, store)
		synctest.Wait()
		ada := &strained{Store: store}
		first := campaign(t, ada, "ada of london")
		late := observe(t, store)
		for _, key := range []string{"leader.next", "leaders", "other"} { // which are no election's
			if _, err := kv.Of(store).Set(t.Context(), key, "eve of nowhere"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * ttl)
		var waiting sync.WaitGroup
		var second *recipe.Leadership
		waiting.Go(func() { second = campaign(t, store, "bob") })
		synctest.Wait()
		ada.cut()
		waiting.Wait()
		if !isLost(first.Lost()) || !errors.Is(first.Err(), recipe.ErrLost) {
			t.Errorf("the first leader does not know: %v", first.Err())
		}
		if second.Term() <= first.Term() || second.Err() != nil {
			t.Errorf("term %d after %d, %v", second.Term(), first.Term(), second.Err())
		}
		if err := second.Resign(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for name, leaders := range map[string][]recipe.Leader{"early": early(), "late": late()} {
			if name == "early" {
				if leaders[0] != (recipe.Leader{}) {
					t.Errorf("there was no leader, and %v was seen", leaders[0])
				}
				leaders = leaders[1:]
			}
			if len(leaders) != 4 {
				t.Fatalf("%s: %v", name, leaders)
			}
			for i, want := range []struct {
				value string
				term  uint64
			}{{"ada of london", first.Term()}, {"", 0}, {"bob", second.Term()}, {"", 0}} {
				if got := leaders[i]; got.Value != want.value || got.Revision != want.term {
					t.Errorf("%s: leader %d is %v, want %v", name, i, got, want)
				}
			}
		}
		if err := first.Resign(t.Context()); !errors.Is(err, recipe.ErrLost) {
			t.Errorf("resign: %v", err)
		}
	})
}

func TestObserveBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		first := campaign(t, store, "ada")
		time.Sleep(ttl)
		for leader, err := range recipe.Observe(t.Context(), store, "leader") {
			if err != nil || leader.Value != "ada" || leader.Revision < first.Term() {
				t.Errorf("%v, %v", leader, err)
			}
			break
		}
		if err := first.Resign(t.Context()); err != nil {
			t.Error(err)
		}
		for _, err := range recipe.Observe(t.Context(), store, "no key") {
			if !errors.Is(err, kv.ErrInvalidKey) {
				t.Errorf("%v", err)
			}
		}
		store.Close()
		for _, err := range recipe.Observe(t.Context(), store, "leader") {
			if !errors.Is(err, kv.ErrClosed) {
				t.Errorf("%v", err)
			}
		}
	})
}
