package service_test

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
	"kvbus/bus/bustest"
	"kvbus/kv/memory"
	"kvbus/service"
)

func TestDiscovery(t *testing.T) {
	s := bustest.StartServer(t, server.Options{})
	svc, _ := startService(t, s, memory.Options{}, service.Options{Version: "1.2.3", WorkerName: "w1"})
	nc := bustest.Connect(t, s)

	for _, suffix := range []string{"", "." + service.Name, "." + service.Name + "." + svc.ID()} {
		var ping micro.Ping
		if err := json.Unmarshal(request(t, nc, "$SRV.PING"+suffix, "").Data, &ping); err != nil {
			t.Fatal(err)
		}
		if ping.Name != service.Name || ping.ID != svc.ID() || ping.Version != "1.2.3" || ping.Type != micro.PingResponseType || ping.Metadata["prefix"] != "kv" || ping.Metadata["store"] != "memory" {
			t.Errorf("the ping of %q answers %+v", suffix, ping)
		}
	}

	var info micro.Info
	if err := json.Unmarshal(request(t, nc, "$SRV.INFO.kvbus", "").Data, &info); err != nil {
		t.Fatal(err)
	}
	subjects := map[string]string{}
	for _, e := range info.Endpoints {
		subjects[e.Name] = e.Subject
		if e.Metadata["description"] == "" || e.QueueGroup != micro.DefaultQueueGroup {
			t.Errorf("the endpoint %+v says too little", e)
		}
	}
	for _, op := range bus.Ops() {
		if subjects[op.String()] == "" {
			t.Errorf("no endpoint for %v", op)
		}
	}
	if subjects["set"] != "kv.set.>" || subjects["keys"] != "kv.keys" || subjects["keys-prefix"] != "kv.keys.>" {
		t.Errorf("the endpoints are %v", subjects)
	}

	expect(t, nc, "kv.set.k", "x", "1")
	expect(t, nc, "kv.incr.k", "", "!not_a_number")
	expect(t, nc, "kv.incr.n", "", "1")
	var stats micro.Stats
	if err := json.Unmarshal(request(t, nc, "$SRV.STATS.kvbus", "").Data, &stats); err != nil {
		t.Fatal(err)
	}
	incr := endpoint(t, stats, "incr")
	if incr.NumRequests != 2 || incr.NumErrors != 1 || incr.LastError == "" || incr.ProcessingTime <= 0 || incr.AverageProcessingTime <= 0 {
		t.Errorf("the statistics of two increments, one wrong, are %+v", incr)
	}
	if stats.Started.IsZero() || stats.Type != micro.StatsResponseType {
		t.Errorf("the statistics are %+v", stats)
	}
}
