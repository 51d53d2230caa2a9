package embedded_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"kvbus/bus/embedded"
)

func TestCredentials(t *testing.T) {
	// A CONNECT with the long password takes the server several reads.
	long := strings.Repeat("secret", 300)
	file := writeFile(t, "nats-server.conf", fmt.Sprintf(`
		authorization { users: [ {user: ada, password: secret}, {user: bob, password: %q} ] }
	`, long))
	s := start(t, embedded.Options{ConfigFile: file})
	for name, tt := range map[string]struct {
		opts []nats.Option
		want error
	}{
		"right":             {[]nats.Option{nats.UserInfo("ada", "secret")}, nil},
		"right and long":    {[]nats.Option{nats.UserInfo("bob", long)}, nil},
		"none":              {nil, nats.ErrAuthorization},
		"wrong password":    {[]nats.Option{nats.UserInfo("ada", "guess")}, nats.ErrAuthorization},
		"wrong and long":    {[]nats.Option{nats.UserInfo("bob", long+"?")}, nats.ErrAuthorization},
		"unknown user":      {[]nats.Option{nats.UserInfo("eve", "secret")}, nats.ErrAuthorization},
		"wrong and verbose": {[]nats.Option{nats.UserInfo("eve", "guess"), verbose}, nats.ErrAuthorization},
		"token for a user":  {[]nats.Option{nats.Token("secret")}, nats.ErrAuthorization},
		"another server":    {[]nats.Option{nats.UserInfo("ada", "secret"), nats.InProcessServer(nil)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			nc, err := s.Connect(tt.opts...)
			if !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
			// The pipe alone would have held a wrong one for ten seconds.
			if took := time.Since(begun); took > 9*time.Second {
				t.Errorf("took %v", took)
			}
			if err == nil {
				carry(t, nc, nc, 100<<10)
				nc.Close()
			}
		})
	}
}

func TestNKeysOfTwoAccounts(t *testing.T) {
	ada, eve := nkey(t), nkey(t)
	file := writeFile(t, "nats-server.conf", fmt.Sprintf(`
		accounts { A { users: [ {nkey: %s} ] }, B { users: [ {user: bob, password: secret} ] } }
	`, ada.public))
	s := start(t, embedded.Options{ConfigFile: file})
	nc := inProcess(t, s, ada.option)
	carry(t, nc, nc, 10)
	inProcess(t, s, nats.UserInfo("bob", "secret"))
	if nc, err := s.Connect(eve.option); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("an unknown key: connection %v, error %v", nc, err)
	}
}

type userKey struct {
	public string
	option nats.Option
}

func nkey(t *testing.T) userKey {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return userKey{public, nats.Nkey(public, pair.Sign)}
}

func verbose(o *nats.Options) error {
	o.Verbose = true
	return nil
}

func TestNoAuthUser(t *testing.T) {
	file := writeFile(t, "nats-server.conf", `
		authorization { users: [ {user: ada, password: secret} ] }
		no_auth_user: ada
	`)
	s := start(t, embedded.Options{ConfigFile: file})
	carry(t, inProcess(t, s), inProcess(t, s), 10)
}

func TestTLSOfTheConfigFile(t *testing.T) {
	cert, key, roots := certificate(t)
	clients := nats.RootCAs(roots)
	for name, tt := range map[string]struct {
		tls       string
		inProcess []nats.Option
		overTCP   []nats.Option
	}{
		"required":        {"", nil, []nats.Option{clients}},
		"used anyway":     {"", []nats.Option{clients}, []nats.Option{clients}},
		"handshake first": {"handshake_first: true", nil, []nats.Option{clients, nats.TLSHandshakeFirst()}},
		"verify": {fmt.Sprintf("verify: true, ca_file: %q", cert), nil,
			[]nats.Option{clients, nats.ClientCert(cert, key)}},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, "nats-server.conf", fmt.Sprintf(`
				tls { cert_file: %q, key_file: %q, %s }
				authorization { user: ada, password: secret }
			`, cert, key, tt.tls))
			s := start(t, embedded.Options{ConfigFile: file})
			ada := nats.UserInfo("ada", "secret")
			local := inProcess(t, s, append(tt.inProcess, ada)...)
			tcp := overTCP(t, s, append(tt.overTCP, ada)...)
			carry(t, local, tcp, 1<<20)
			carry(t, tcp, local, 1<<20)
			if !strings.HasPrefix(s.ClientURL(), "tls://") {
				t.Errorf("URL is %s", s.ClientURL())
			}
			if _, err := tcp.TLSConnectionState(); err != nil {
				t.Errorf("over TCP without TLS: %v", err)
			}

			if nc, err := s.Connect(append(tt.inProcess, nats.UserInfo("ada", "guess"))...); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("wrong credentials: connection %v, error %v", nc, err)
			}
		})
	}
}

func TestTLSThatSaysWhoTheClientIs(t *testing.T) {
	cert, key, roots := certificate(t)
	eve := nkey(t) // needs none, in the process
	file := writeFile(t, "nats-server.conf", fmt.Sprintf(`
		tls { cert_file: %q, key_file: %q, ca_file: %q, verify_and_map: true }
		authorization { users: [ {user: "ada.example"}, {nkey: %s} ] }
	`, cert, key, cert, eve.public))
	s := start(t, embedded.Options{ConfigFile: file})
	if nc, err := s.Connect(); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a certificate: connection %v, error %v", nc, err)
	}
	nc := inProcess(t, s, nats.RootCAs(roots), nats.ClientCert(cert, key))
	carry(t, nc, nc, 1<<20)
	nc = inProcess(t, s, eve.option)
	carry(t, nc, nc, 1<<20)
}

// certificate makes one for 127.0.0.1 and for the user ada.example, signed by
// itself.
func certificate(t *testing.T) (certFile, keyFile, rootsFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"ada.example"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, kind string, der []byte) string {
		return writeFile(t, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	certFile = file("cert.pem", "CERTIFICATE", der)
	return certFile, file("key.pem", "PRIVATE KEY", keyDER), certFile
}
