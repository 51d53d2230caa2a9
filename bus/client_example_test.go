package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"kvbus/bus"
	"kvbus/bus/embedded"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
	"kvbus/watchbridge"
)

// serveExample stands for a kvbus that runs elsewhere.
func serveExample() (url string, stop func()) {
	ctx := context.Background()
	s, err := embedded.Start(ctx, embedded.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	nc, err := s.Connect()
	if err != nil {
		log.Fatal(err)
	}
	store := memory.New(memory.Options{})
	subjects, err := bus.NewSubjects("")
	if err != nil {
		log.Fatal(err)
	}
	bridge := watchbridge.Start(store, watchbridge.Options{
		Dial:     func(context.Context) (*nats.Conn, error) { return s.Connect() },
		Subjects: subjects,
	})
	svc, err := service.Start(ctx, nc, store, service.Options{Subjects: subjects, ClaimWait: time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	return s.ClientURL(), func() {
		err := errors.Join(svc.Stop(ctx), store.Close(), bridge.Wait(ctx))
		nc.Close()
		if err := errors.Join(err, s.Shutdown(ctx)); err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleClient() {
	url, stop := serveExample()
	defer stop()
	ctx := context.Background()

	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := bus.NewClient(nc, bus.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	h := kv.Of(client) // a method for each thing that one does with a store
	revision, err := h.Set(ctx, "color", "blue", kv.WithTTL(time.Minute))
	fmt.Println(revision, err)
	text, err := h.GetText(ctx, "color")
	fmt.Println(text, err)
	_, err = h.Set(ctx, "color", "red", kv.AtRevision(0))
	fmt.Println(errors.Is(err, kv.ErrConflict))
	swapped, _, err := h.CompareAndSwap(ctx, "color", kv.IfValue("blue"), "green")
	fmt.Println(swapped, err)
	for entry, err := range h.Entries(ctx, kv.Query{Prefix: "co"}) {
		fmt.Println(entry.Key, entry.Value, err)
	}
	// Output:
	// 1 <nil>
	// blue <nil>
	// true
	// true <nil>
	// color green <nil>
}

// A write with an id is sent again until it is answered, and takes effect once.
func ExampleClient_Do() {
	url, stop := serveExample()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := bus.NewClient(nc, bus.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	order := kv.Command{Op: kv.OpIncrement, Key: "orders", Delta: 5, RequestID: nuid.Next()}
	for range 2 {
		result, err := client.Do(ctx, order)
		switch {
		case errors.Is(err, kv.ErrTimeout):
			fmt.Println("not known; give the same command again")
		case err != nil:
			fmt.Println("not done:", err)
		default:
			fmt.Println(result.Number)
		}
	}
	// Output:
	// 5
	// 5
}

func ExampleClient_Watch() {
	url, stop := serveExample()
	defer stop()
	ctx := context.Background()

	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := bus.NewClient(nc, bus.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	events := client.Watch(ctx, kv.WatchOptions{Prefix: "job."}) // it starts here
	h := kv.Of(client)
	for _, key := range []string{"job.1", "other", "job.2"} {
		if _, err := h.Set(ctx, key, "new"); err != nil {
			log.Fatal(err)
		}
	}
	for event, err := range events {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Kind, event.Key, event.Value)
		if event.Key == "job.2" {
			break
		}
	}
	// Output:
	// SET job.1 new
	// SET job.2 new
}
