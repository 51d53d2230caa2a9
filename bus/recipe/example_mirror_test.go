package recipe_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus"
	"kvbus/bus/recipe"
	"kvbus/kv"
	"kvbus/kv/memory"
	"kvbus/service"
	"kvbus/watchbridge"
)

// Settings that are read for each request, and changed by somebody else.
func ExampleMirror() {
	client, stop := startKVBus()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	settings := kv.Of(client)
	if _, err := settings.Set(ctx, "settings.color", "blue"); err != nil {
		log.Fatal(err)
	}

	mirror, err := recipe.NewMirror(client, recipe.MirrorOptions{FollowOptions: bus.FollowOptions{Prefix: "settings."}})
	if err != nil {
		log.Fatal(err)
	}
	defer mirror.Close()
	<-mirror.Ready()
	color, err := mirror.Get("settings.color")
	fmt.Println(color.Value, err)

	revision, err := settings.Set(ctx, "settings.color", "green")
	if err != nil {
		log.Fatal(err)
	}
	if err := mirror.WaitFor(ctx, revision); err != nil {
		log.Fatal(err)
	}
	color, err = mirror.Get("settings.color")
	fmt.Println(color.Value, err)
	_, err = mirror.Get("settings.size")
	fmt.Println(err)
	// Output:
	// blue <nil>
	// green <nil>
	// key not found
}

// startKVBus starts what kvbus serve does, and returns a client.
func startKVBus() (client *bus.Client, stop func()) {
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		log.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		log.Fatal("the NATS server does not start")
	}
	dial := func(context.Context) (*nats.Conn, error) {
		return nats.Connect("", nats.InProcessServer(s), nats.NoReconnect())
	}
	ctx := context.Background()
	nc, err := dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	store := memory.New(memory.Options{})
	if _, err := service.Start(ctx, nc, store, service.Options{ClaimWait: time.Millisecond, Version: "0.0.0"}); err != nil {
		log.Fatal(err)
	}
	subjects, err := bus.NewSubjects(bus.DefaultPrefix)
	if err != nil {
		log.Fatal(err)
	}
	bridge := watchbridge.Start(store, watchbridge.Options{Dial: dial, Subjects: subjects})
	if client, err = bus.NewClient(nc, bus.ClientOptions{Prefix: bus.DefaultPrefix}); err != nil {
		log.Fatal(err)
	}
	return client, func() {
		client.Close()
		store.Close()
		if err := bridge.Wait(ctx); err != nil {
			log.Fatal(err)
		}
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}
