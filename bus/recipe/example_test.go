package recipe_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"kvbus/bus/recipe"
	"kvbus/kv"
	"kvbus/kv/memory"
)

// The token goes with each write, to a thing that refuses older ones.
func ExampleWithLock() {
	ctx := context.Background()
	store := memory.New(memory.Options{}) // or a client of the bus
	defer store.Close()

	var newest uint64 // of the tokens that the printer has seen
	printer := func(token uint64, text string) error {
		if token < newest {
			return errors.New("the lock is another's by now")
		}
		newest = token
		fmt.Println("prints", text)
		return nil
	}
	var first uint64
	for _, text := range []string{"a page", "another page"} {
		err := recipe.WithLock(ctx, store, "lock.printer", recipe.LockOptions{}, func(ctx context.Context, token uint64) error {
			if first == 0 {
				first = token
			}
			return printer(token, text)
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(printer(first, "a late page"))
	// Output:
	// prints a page
	// prints another page
	// the lock is another's by now
}

func ExampleAcquire() {
	ctx := context.Background()
	store := memory.New(memory.Options{})
	defer store.Close()

	lock, err := recipe.Acquire(ctx, store, "lock.report", recipe.LockOptions{TTL: 10 * time.Second, Value: "host-1"})
	if err != nil {
		log.Fatal(err)
	}
	_, err = recipe.TryAcquire(ctx, store, "lock.report", recipe.LockOptions{})
	fmt.Println(errors.Is(err, recipe.ErrHeld))
	select {
	case <-lock.Lost(): // stop working
	default:
		fmt.Println("at work")
	}
	fmt.Println(lock.Unlock(ctx))
	// Output:
	// true
	// at work
	// <nil>
}

func ExampleCampaign() {
	ctx := context.Background()
	store := memory.New(memory.Options{})
	defer store.Close()

	leadership, err := recipe.Campaign(ctx, store, "leader", recipe.LockOptions{Value: "10.0.0.1:8080"})
	if err != nil {
		log.Fatal(err)
	}
	for leader, err := range recipe.Observe(ctx, store, "leader") {
		if err != nil {
			log.Fatal(err)
		}
		if leader == (recipe.Leader{}) {
			fmt.Println("nobody leads")
			break
		}
		fmt.Println(leader.Value, "leads")
		if err := leadership.Resign(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 10.0.0.1:8080 leads
	// nobody leads
}

func ExampleLimiter() {
	ctx := context.Background()
	store := memory.New(memory.Options{})
	defer store.Close()

	limiter, err := recipe.NewLimiter(store, "limit.login.", 2, time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		d, err := limiter.Allow(ctx, "alice")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.Remaining)
	}
	_, never, err := kv.Of(store).TTL(ctx, "limit.login.alice")
	fmt.Println("for ever:", never, err)
	// Output:
	// true 1
	// true 0
	// false 0
	// for ever: false <nil>
}
