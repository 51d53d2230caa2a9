package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/bus/embedded"
)

// echo answers requests on a subject, as one of a queue group, with its name.
func echo(t *testing.T, nc *nats.Conn, subject, name string) {
	t.Helper()
	if _, err := nc.QueueSubscribe(subject, "q", func(m *nats.Msg) {
		if err := m.Respond([]byte(name)); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Two servers keep subjects to themselves: each answers its own clients, and only who
// listens to more hears them elsewhere. What the file keeps is kept as well.
func TestLocalSubjects(t *testing.T) {
	t.Parallel()
	tuned := writeFile(t, "nats-server.conf", `cluster {permissions {import {deny: ["hidden"]}, export {deny: ["secret"]}}}`)
	nodes := cluster(t, 2)
	for _, n := range nodes {
		n.opts.ConfigFile = tuned
		n.opts.Cluster.Local = []string{"ask.>", "info"}
		n.start(t)
		if !n.Local() {
			t.Fatalf("%s keeps nothing to itself", n.Name())
		}
	}
	reach(t, nodes[0], nodes[1])
	reach(t, nodes[1], nodes[0])
	for _, subject := range []string{"ask.a.b", "hidden", "secret", "shared"} {
		echo(t, inProcess(t, nodes[1].Server), subject, "second")
	}
	reach(t, nodes[0], nodes[1]) // what was subscribed to before is known too

	client := overTCP(t, nodes[0].Server)
	for subject, known := range map[string]bool{"ask.a.b": false, "hidden": false, "secret": false, "shared": true} {
		_, err := client.Request(subject, nil, patience)
		if known && err != nil || !known && !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("nobody here answers %s, and the other server: %v", subject, err)
		}
	}
	listener := inProcess(t, nodes[1].Server)
	all, err := listener.SubscribeSync(">")
	if err == nil {
		err = listener.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	reach(t, nodes[0], nodes[1])
	echo(t, inProcess(t, nodes[0].Server), "ask.>", "first")
	for range 50 {
		m, err := client.Request("ask.a.b", nil, patience)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Data) != "first" {
			t.Fatalf("the %s server answers", m.Data)
		}
	}
	for heard := 0; heard < 50; {
		m, err := all.NextMsg(patience)
		if err != nil {
			t.Fatalf("after %d requests: %v", heard, err)
		}
		if m.Subject == "ask.a.b" {
			heard++
		}
	}
}

// Routes know no accounts, so nothing is kept where there are several.
func TestLocalSubjectsOfAccounts(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]bool{
		`authorization {users: [{user: a, password: a}]}`:                                                        true,
		`accounts {A {users: [{user: a, password: a}]}}`:                                                         true,
		`accounts {A {users: [{user: a, password: a}]}, S {users: [{user: s, password: s}]}}; system_account: S`: true,
		`accounts {A {users: [{user: a, password: a}]}}; authorization {users: [{user: b, password: b}]}`:        false,
		`accounts {A {users: [{user: a, password: a}]}, B {users: [{user: b, password: b}]}}`:                    false,
	} {
		s := start(t, embedded.Options{ConfigFile: writeFile(t, "nats-server.conf", file), Listen: "127.0.0.1:0", ServerName: "n", Cluster: embedded.Cluster{
			Name: "c", Listen: bustest.FreeAddress(t), Local: []string{"ask.>"},
		}})
		if s.Local() != want {
			t.Errorf("%s: subjects are kept: %v", file, s.Local())
		}
	}
}

// Interest is that of the account of a connection, on all servers.
func TestInterest(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, 2)
	for _, n := range nodes {
		n.start(t)
	}
	reach(t, nodes[0], nodes[1])
	nc := inProcess(t, nodes[0].Server)
	if nodes[0].Interest(nc, "ask.a") != 0 {
		t.Error("there is interest in what nobody listens to")
	}
	echo(t, inProcess(t, nodes[1].Server), "ask.>", "other")
	eventually(t, "see the interest of another server's client", func(context.Context) error {
		if nodes[0].Interest(nc, "ask.a") != 1 {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	nc.Close()
	if nodes[0].Interest(nc, "ask.a") != 0 {
		t.Error("a closed connection has interest")
	}
}
