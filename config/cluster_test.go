package config_test

import (
	"strings"
	"testing"

	"kvbus/config"
)

// node is the first of three.
func node() config.Config {
	cfg := config.Default()
	cfg.Store.DataDir = "data"
	cfg.Cluster.NodeName = "a"
	cfg.Cluster.Listen = "10.0.0.1:6222"
	cfg.Cluster.Routes = "nats://10.0.0.1:6222,nats://10.0.0.2:6222,nats://10.0.0.3:6222"
	return cfg
}

func TestValidateCluster(t *testing.T) {
	t.Parallel()
	type cluster = config.Cluster
	alone := func(c *config.Config) { c.Cluster = cluster{Name: "kvbus"} }
	for name, test := range map[string]struct {
		change func(*config.Config)
		want   string // empty: valid
	}{
		"three nodes":           {func(*config.Config) {}, ""},
		"five nodes, five":      {func(c *config.Config) { c.Cluster.Routes += ",10.0.0.4:6222,10.0.0.5:6222"; c.Store.Replicas = 5 }, ""},
		"two nodes, one":        {func(c *config.Config) { c.Cluster.Routes = "10.0.0.2:6222"; c.Store.Replicas = 1 }, ""},
		"two nodes":             {func(c *config.Config) { c.Cluster.Routes = "10.0.0.2:6222" }, "store.replicas (--replicas) is 0: must be set with two nodes, to 1"},
		"too many replicas":     {func(c *config.Config) { c.Store.Replicas = 5 }, "store.replicas (--replicas) is 5: must not be more than the nodes, and cluster.routes names 3 with this one"},
		"no directory":          {func(c *config.Config) { c.Store.DataDir = "" }, `cluster.listen (--cluster-listen) is "10.0.0.1:6222": needs store.data_dir`},
		"external":              {func(c *config.Config) { c.NATS.URL = "nats://host"; c.Store.DataDir = "" }, `cluster.listen (--cluster-listen) is "10.0.0.1:6222": is for embedded servers`},
		"listen without port":   {func(c *config.Config) { c.Cluster.Listen = "a" }, `cluster.listen (--cluster-listen) is "a": must be host:port`},
		"listen on any port":    {func(c *config.Config) { c.Cluster.Listen = ":0" }, "must have a port from 1 to 65535"},
		"advertise":             {func(c *config.Config) { c.Cluster.Advertise = "a:6222" }, ""},
		"advertise, no port":    {func(c *config.Config) { c.Cluster.Advertise = "a" }, `cluster.advertise (--cluster-advertise) is "a": must be host:port`},
		"advertise, no host":    {func(c *config.Config) { c.Cluster.Advertise = ":6222" }, `cluster.advertise (--cluster-advertise) is ":6222": must have a host`},
		"advertise, any host":   {func(c *config.Config) { c.Cluster.Advertise = "0.0.0.0:6222" }, "must have a host"},
		"no node name":          {func(c *config.Config) { c.Cluster.NodeName = "" }, `cluster.node_name (--node-name) is "": must be set with cluster.listen`},
		"node name of space":    {func(c *config.Config) { c.Cluster.NodeName = "a b" }, "must have no spaces"},
		"no cluster name":       {func(c *config.Config) { c.Cluster.Name = "" }, `cluster.name (--cluster-name) is "": must not be empty`},
		"cluster name, space":   {func(c *config.Config) { c.Cluster.Name = "a b" }, "must have no spaces"},
		"no routes":             {func(c *config.Config) { c.Cluster.Routes = "" }, `cluster.routes (--cluster-routes) is "": must name the nodes`},
		"route to itself only":  {func(c *config.Config) { c.Cluster.Routes = "10.0.0.1:6222" }, "must name another node than this one"},
		"route of nothing":      {func(c *config.Config) { c.Cluster.Routes = "a:1,,b:1" }, "must have a node between two commas"},
		"route without port":    {func(c *config.Config) { c.Cluster.Routes = "nats://a" }, "must be nodes like nats://host:6222"},
		"route, port 0":         {func(c *config.Config) { c.Cluster.Routes = "nats://a:0,b:1" }, "must have ports from 1 to 65535"},
		"route, no port":        {func(c *config.Config) { c.Cluster.Routes = "a:1,b:65536" }, "must have ports from 1 to 65535"},
		"route, scheme":         {func(c *config.Config) { c.Cluster.Routes = "ws://a:1" }, "must have nats, nats-route or tls as scheme"},
		"route, bad, masked":    {func(c *config.Config) { c.Cluster.Routes = "nats://me:hunter2@a" }, `is "nats://me:***@a": must be nodes`},
		"route, TLS by itself":  {func(c *config.Config) { c.Cluster.Routes, c.Store.Replicas = "tls://b:1", 1 }, "must not have tls as scheme without cluster.tls"},
		"route, user by itself": {func(c *config.Config) { c.Cluster.Routes, c.Store.Replicas = "nats://me:hunter2@b:1", 1 }, `is "nats://me:***@b:1": must have no user without cluster.user`},
		"routes, user and TLS": {func(c *config.Config) {
			c.Cluster.Routes = "tls://a:b@c:1,tls://a:b@d:1"
			c.Cluster.User, c.Cluster.Password = "a", "b"
			c.Cluster.TLS = config.ClusterTLS{CA: "a", Cert: "b", Key: "c"}
		}, ""},
		"route, mask":       {func(c *config.Config) { c.Cluster.Routes = "me:***@a:1,b:1" }, "has the mask"},
		"user and password": {func(c *config.Config) { c.Cluster.User, c.Cluster.Password = "a", "b" }, ""},
		"user alone":        {func(c *config.Config) { c.Cluster.User = "a" }, `cluster.user is "a": needs cluster.password`},
		"password alone":    {func(c *config.Config) { c.Cluster.Password = "hunter2" }, `cluster.password is "***": needs cluster.user`},
		"the mask":          {func(c *config.Config) { c.Cluster.User, c.Cluster.Password = "a", "***" }, "is the mask"},
		"TLS":               {func(c *config.Config) { c.Cluster.TLS = config.ClusterTLS{CA: "a", Cert: "b", Key: "c"} }, ""},
		"TLS without CA":    {func(c *config.Config) { c.Cluster.TLS = config.ClusterTLS{Cert: "b", Key: "c"} }, `cluster.tls.ca is "": must be set where another`},
		"TLS without cert":  {func(c *config.Config) { c.Cluster.TLS = config.ClusterTLS{CA: "a", Key: "c"} }, `cluster.tls.cert is "": must be set where another`},
		"TLS without key":   {func(c *config.Config) { c.Cluster.TLS = config.ClusterTLS{CA: "a", Cert: "b"} }, `cluster.tls.key is "": must be set where another`},

		"routes, no cluster":    {func(c *config.Config) { alone(c); c.Cluster.Routes = "a:1" }, `cluster.routes (--cluster-routes) is "a:1": needs cluster.listen`},
		"node name, no cluster": {func(c *config.Config) { alone(c); c.Cluster.NodeName = "a" }, `cluster.node_name (--node-name) is "a": needs cluster.listen`},
		"name, no cluster":      {func(c *config.Config) { alone(c); c.Cluster.Name = "a" }, `cluster.name (--cluster-name) is "a": needs cluster.listen`},
		"advertise, no cluster": {func(c *config.Config) { alone(c); c.Cluster.Advertise = "a:1" }, `cluster.advertise (--cluster-advertise) is "a:1": needs cluster.listen`},
		"CA, no cluster":        {func(c *config.Config) { alone(c); c.Cluster.TLS.CA = "a" }, `cluster.tls.ca is "a": needs cluster.listen`},
		"cert, no cluster":      {func(c *config.Config) { alone(c); c.Cluster.TLS.Cert = "a" }, `cluster.tls.cert is "a": needs cluster.listen`},
		"key, no cluster":       {func(c *config.Config) { alone(c); c.Cluster.TLS.Key = "a" }, `cluster.tls.key is "a": needs cluster.listen`},
		"user, no cluster":      {func(c *config.Config) { alone(c); c.Cluster.User = "a" }, `cluster.user is "a": needs cluster.listen`},
		"password, no cluster":  {func(c *config.Config) { alone(c); c.Cluster.Password = "hunter2" }, `cluster.password is "***": needs cluster.listen`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := node()
			test.change(&cfg)
			err := cfg.Validate()
			switch {
			case test.want == "" && err != nil:
				t.Errorf("error %q; want none", err)
			case test.want != "" && err == nil:
				t.Errorf("no error; want %q", test.want)
			case test.want != "" && (len(config.Problems(err)) != 1 || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %q; want just %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q shows the secret", err)
			}
		})
	}
}

func TestNewReplicas(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cluster config.Cluster
		want    int
	}{
		"alone":                  {config.Cluster{}, 1},
		"itself among three":     {config.Cluster{Listen: "10.0.0.1:1", Routes: "10.0.0.1:1,10.0.0.2:1,10.0.0.3:1"}, 3},
		"itself not among three": {config.Cluster{Listen: "10.0.0.1:1", Routes: "nats://10.0.0.2:1,nats://10.0.0.3:1"}, 3},
		"two":                    {config.Cluster{Listen: "10.0.0.1:1", Routes: "10.0.0.2:1"}, 2},
		"at most three":          {config.Cluster{Listen: "10.0.0.1:1", Routes: "b:1,c:1,d:1,e:1"}, 3},
		"one twice":              {config.Cluster{Listen: "10.0.0.1:1", Routes: "nats://b:1,nats://me:pass@b:1"}, 2},
		"itself by node name":    {config.Cluster{NodeName: "a", Listen: ":1", Routes: "A:1,b:1"}, 2},
		"itself by whole name":   {config.Cluster{NodeName: "a.example", Listen: ":1", Routes: "A.example:1,b.example:1"}, 2},
		"itself by first label":  {config.Cluster{NodeName: "kv-0", Listen: ":1", Routes: "kv-0.kv:1,kv-1.kv:1"}, 2},
		"itself as advertised":   {config.Cluster{Listen: ":1", Advertise: "a.example:7", Routes: "a.example:7,b.example:7"}, 2},
		"itself, another port":   {config.Cluster{NodeName: "a", Listen: ":1", Routes: "a:2,a:3"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := (config.Config{Cluster: test.cluster}).NewReplicas(); got != test.want {
				t.Errorf("replicas are %d; want %d", got, test.want)
			}
		})
	}
}
