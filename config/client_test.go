package config_test

import (
	"testing"

	"kvbus/config"
)

func TestServerOfAClient(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ []string
		want    string
	}{
		"nothing":                {nil, "nats://127.0.0.1:4222"},
		"that of a worker":       {[]string{"KVBUS_NATS__LISTEN=10.0.0.1:5000"}, "nats://10.0.0.1:5000"},
		"on all interfaces":      {[]string{"KVBUS_NATS__LISTEN=:5000"}, "nats://127.0.0.1:5000"},
		"on all of IPv6":         {[]string{"KVBUS_NATS__LISTEN=[::]:5000"}, "nats://127.0.0.1:5000"},
		"IPv6":                   {[]string{"KVBUS_NATS__LISTEN=[::1]:5000"}, "nats://[::1]:5000"},
		"any port":               {[]string{"KVBUS_NATS__LISTEN=127.0.0.1:0"}, "nats://127.0.0.1:4222"},
		"an external one":        {[]string{"KVBUS_NATS__URL=nats://elsewhere:1"}, "nats://elsewhere:1"},
		"in spite of a worker's": {[]string{"KVBUS_NATS__URL=nats://elsewhere:1", "KVBUS_NATS__LISTEN=:5000", "KVBUS_STORE__DATA_DIR=data"}, "nats://elsewhere:1"},
		"by a context":           {[]string{"KVBUS_NATS__CONTEXT=prod"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(config.Sources{Environ: test.environ, Client: true})
			if err != nil {
				t.Fatal(err)
			}
			if got := string(cfg.NATS.URL); got != test.want {
				t.Errorf("the server is %q; want %q", got, test.want)
			}
		})
	}
	environ := []string{"KVBUS_NATS__TLS__CA=ca.pem", "KVBUS_BUS__PREFIX=team.kv", "KVBUS_LOG__LEVEL=debug"}
	cfg, err := config.Load(config.Sources{Environ: environ, Client: true})
	if err != nil || cfg.NATS.TLS.CA != "ca.pem" || cfg.Bus.Prefix != "team.kv" || cfg.Log.Level != "debug" {
		t.Errorf("%v; %+v", err, cfg)
	}
	for _, wrong := range []string{"KVBUS_NATS__LISTEN=5000", "KVBUS_BUS__PREFIX=a..b", "KVBUS_NATS__PASSWORD=x"} {
		if _, err := config.Load(config.Sources{Environ: []string{wrong}, Client: true}); len(config.Problems(err)) != 1 {
			t.Errorf("%s: %v; want one problem", wrong, err)
		}
	}
}
