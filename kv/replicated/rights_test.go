package replicated_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kvbus/bus/bustest"
	"kvbus/kv/replicated"
)

// A store whose user may not do what it needs does not wait for it: it does not open,
// and the error says what is refused. The log may be there already or not.
func TestRightsOfAStore(t *testing.T) {
	t.Parallel()
	user := func(name string, publish, subscribe []string) *server.User {
		return &server.User{Username: name, Password: "x", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: publish},
			Subscribe: &server.SubjectPermission{Deny: subscribe},
		}}
	}
	s := bustest.StartServer(t, server.Options{JetStream: true, StoreDir: t.TempDir(), Users: []*server.User{
		user("may ask", nil, nil),
		user("may not ask", []string{"$JS.API.>"}, nil),
		user("may not read", []string{"$JS.API.DIRECT.GET.>"}, nil),
		user("may not append", []string{"$KVBUS.kv.log", "$KVBUS.kv.mark"}, nil),
		user("may not ask others", []string{"$KVBUS.kv.worker", "$JS.API.INFO"}, nil),
		user("may not get answers", nil, []string{"_INBOX.>"}),
	}})
	connect := func(name string) *nats.Conn {
		return bustest.Connect(t, s, nats.UserInfo(name, "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	}
	refused := func(name, subject string) {
		t.Helper()
		ctx := bounded(t)
		store, err := replicated.Open(ctx, connect(name), replicated.Options{})
		if err == nil {
			closeStore(t, store)
		}
		if ctx.Err() != nil || !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
			t.Errorf("who %s opens a store with %v", name, err)
		}
	}
	refused("may not ask", `"$JS.API.STREAM.INFO.KVBUS_kv"`)
	refused("may not append", `"$KVBUS.kv.`)

	others := connect("may not ask others")
	if err := others.Publish("$JS.API.INFO", nil); err != nil { // of who else uses the connection
		t.Fatal(err)
	}
	store, err := replicated.Open(bounded(t), others, replicated.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, store)
	if _, err := store.Info(bounded(t)); err != nil { // there is something to read
		t.Fatal(err)
	}
	refused("may not ask", `"$JS.API.STREAM.INFO.KVBUS_kv"`)
	refused("may not read", `"$JS.API.DIRECT.GET.KVBUS_kv"`)
	refused("may not append", `"$KVBUS.kv.`)
	refused("may not get answers", `"_INBOX.`)
}
