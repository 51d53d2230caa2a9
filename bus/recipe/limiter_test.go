package recipe_test

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kvbus/bus/recipe"
	"kvbus/kv"
)

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t)
		limiter, err := recipe.NewLimiter(store, "limit.", 3, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // windows
			begin := time.Now().UTC()
			for i, want := range []recipe.Decision{
				{Allowed: true, Remaining: 2},
				{Allowed: true, Remaining: 1},
				{Allowed: true, Remaining: 0},
				{Allowed: false, Remaining: 0},
				{Allowed: false, Remaining: 0},
			} {
				want.Reset = begin.Add(time.Minute)
				got, err := limiter.Allow(t.Context(), "alice")
				if err != nil || got.Allowed != want.Allowed || got.Remaining != want.Remaining || !got.Reset.Equal(want.Reset) {
					t.Errorf("use %d: %+v, %v, want %+v", i, got, err, want)
				}
				if i == 4 {
					time.Sleep(got.RetryAfter(time.Now()))
				} else {
					time.Sleep(time.Second)
				}
			}
		}
		if other, err := limiter.Allow(t.Context(), "bob"); !other.Allowed || other.Remaining != 2 || err != nil {
			t.Errorf("%+v, %v", other, err)
		}
	})
}

func TestLimiterIsSharedByAll(t *testing.T) {
	store := newStore(t)
	var allowed atomic.Int64
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			limiter, err := recipe.NewLimiter(store, "limit.", 100, time.Hour)
			if err != nil {
				t.Error(err)
				return
			}
			for range 50 {
				d, err := limiter.Allow(t.Context(), "all")
				if err != nil {
					t.Error(err)
				}
				if d.Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	users.Wait()
	if n := allowed.Load(); n != 100 {
		t.Errorf("%d uses of 400 were allowed, want 100", n)
	}
}

// Others may count down what a limiter counts, as far as numbers go.
func TestLimiterBelowZero(t *testing.T) {
	for number, want := range map[int64]int64{
		-5:                7,
		2 - math.MaxInt64: math.MaxInt64,
		1 - math.MaxInt64: math.MaxInt64,
		math.MinInt64:     math.MaxInt64,
	} {
		store := kv.Of(newStore(t))
		limiter, err := recipe.NewLimiter(store.Store(), "limit.", 3, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Increment(t.Context(), "limit.all", number, kv.WithTTL(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if d, err := limiter.Allow(t.Context(), "all"); err != nil || !d.Allowed || d.Remaining != want {
			t.Errorf("after %d: %+v, %v, want %d more", number, d, err, want)
		}
	}
}

func TestLimiterRefuses(t *testing.T) {
	store := kv.Of(newStore(t))
	for _, tt := range []struct {
		prefix string
		limit  int64
		window time.Duration
		want   error
	}{
		{"a", 0, time.Second, kv.ErrInvalidArgument},
		{"a", 1, 0, kv.ErrInvalidArgument},
		{"a b", 1, time.Second, kv.ErrInvalidKey},
	} {
		if _, err := recipe.NewLimiter(store.Store(), tt.prefix, tt.limit, tt.window); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	limiter, err := recipe.NewLimiter(store.Store(), "", 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"text": "blue", "number": "5"} {
		if _, err := store.Set(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
		if d, err := limiter.Allow(t.Context(), key); !errors.Is(err, recipe.ErrForeign) || d.Allowed {
			t.Errorf("%s: %+v, %v", key, d, err)
		}
	}
	if d, err := limiter.Allow(t.Context(), "no key"); !errors.Is(err, kv.ErrInvalidKey) || d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}
