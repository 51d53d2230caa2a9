package bustest

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// StartCluster starts three NATS servers, with opts, that make a cluster with
// JetStream, on free ports of the loopback interface. They end with the test.
func StartCluster(tb testing.TB, opts server.Options) []*server.Server {
	tb.Helper()
	const size = 3
	var routes []*url.URL
	for range size {
		routes = append(routes, &url.URL{Scheme: "nats", Host: FreeAddress(tb)})
	}
	dir := tb.TempDir()
	var servers []*server.Server
	for i, route := range routes {
		port, err := strconv.Atoi(route.Port())
		if err != nil {
			tb.Fatal(err)
		}
		o := *opts.Clone()
		o.ServerName = fmt.Sprint("server-", i)
		o.JetStream, o.StoreDir = true, filepath.Join(dir, o.ServerName)
		o.Cluster = server.ClusterOpts{Name: "cluster", Host: "127.0.0.1", Port: port, Permissions: opts.Cluster.Permissions}
		o.Routes = routes
		servers = append(servers, StartServer(tb, o))
	}
	deadline := time.Now().Add(30 * time.Second)
	for _, s := range servers {
		for !s.JetStreamIsCurrent() {
			if time.Now().After(deadline) {
				tb.Fatal("the cluster does not become ready")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return servers
}
