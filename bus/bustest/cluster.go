package bustest

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
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
	var ports []int
	for range size {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: listener.Addr().String()})
		listener.Close()
	}
	dir := tb.TempDir()
	var servers []*server.Server
	for i, port := range ports {
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
