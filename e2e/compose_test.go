package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"go.yaml.in/yaml/v3"

	"kvbus/bus"
	"kvbus/bus/bustest"
)

// A composition is what docker-compose.yml says.
type composition struct {
	Services map[string]struct {
		Build       string
		Image       string
		PullPolicy  string `yaml:"pull_policy"`
		Environment map[string]string
		Ports       []string
		Volumes     []string
	}
	Volumes map[string]any
}

// The nodes of docker-compose.yml make a cluster: the same processes with the
// same settings, but for addresses and directories, which are this machine's.
func TestCompose(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(moduleRoot, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var composed composition
	if err := yaml.Unmarshal(text, &composed); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(composed.Services))
	if len(names) != 3 {
		t.Fatalf("the services are %v; want three", names)
	}
	var routes, builders []string
	for _, name := range names {
		switch s := composed.Services[name]; {
		case s.Image != "kvbus":
			t.Errorf("%s has the image %q", name, s.Image)
		case s.Build != "":
			builders = append(builders, name)
		case s.PullPolicy != "never":
			t.Errorf("%s would pull the image", name)
		}
		routes = append(routes, name+":6222", bustest.FreeAddress(t))
	}
	if len(builders) != 1 {
		t.Errorf("the image is built by %v; want one service", builders)
	}
	local := strings.NewReplacer(routes...)

	c := &cluster{}
	ports, volumes := map[string]bool{}, map[string]bool{}
	for i, name := range names {
		service := composed.Services[name]
		if len(service.Ports) != 1 || ports[service.Ports[0]] || !regexp.MustCompile(`^127\.0\.0\.1:\d+:4222$`).MatchString(service.Ports[0]) {
			t.Errorf("%s has the ports %v; want one of its own, for this machine", name, service.Ports)
		}
		volume, target, _ := strings.Cut(strings.Join(service.Volumes, " "), ":")
		if _, declared := composed.Volumes[volume]; target != "/data" || volumes[volume] || !declared {
			t.Errorf("%s has the volumes %v; want one of its own at /data", name, service.Volumes)
		}
		ports[strings.Join(service.Ports, "")], volumes[volume] = true, true

		dir := t.TempDir()
		args := strings.NewReplacer("0.0.0.0:4222", bustest.FreeAddress(t), "/data", dir).Replace(strings.Join(imageCommand(t), "\n"))
		var environ []string
		for key, value := range service.Environment {
			value = strings.Replace(value, "0.0.0.0:6222", routes[2*i+1], 1)
			environ = append(environ, key+"="+local.Replace(value))
		}
		n := &node{name: name, dir: dir}
		n.worker = &worker{process: launch(t, append(environ, "KVBUS_LOG__FORMAT=json"), "kvbus", strings.Split(args, "\n")...)}
		c.nodes = append(c.nodes, n)
	}
	for i, n := range c.nodes {
		n.await(t)
		nc := connect(t, n.url)
		if got := persist(t, nc, "kv.incr.nodes", ""); got != fmt.Sprint(i+1) {
			t.Errorf("%s counts %s nodes; want %d", n.name, got, i+1)
		}
		info, err := bus.DecodeInfo(request(t, nc, nats.NewMsg("kv.info")))
		if err != nil || !info.Durable || info.Replicas != 3 {
			t.Errorf("%s says %+v, %v; want a durable store on three replicas", n.name, info, err)
		}
	}
}

// imageCommand returns what the image runs, without the name of the program.
func imageCommand(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(moduleRoot, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^CMD (\[.*\])$`).FindSubmatch(text)
	if found == nil {
		t.Fatal("the Dockerfile has no command")
	}
	var args []string
	if err := json.Unmarshal(found[1], &args); err != nil {
		t.Fatal(err)
	}
	return args
}
