package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.issue(t, "server")
	s := startServer(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q }", cert, key))

	w := serveOn(t, s.url, "--tls-ca", ca.file)
	client := connect(t, s.url, nats.RootCAs(ca.file))
	if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
		t.Errorf("set answers %q; want 1", got)
	}
	w.terminate(t)

	for name, args := range map[string][]string{
		"no authority":      nil,
		"another authority": {"--tls-ca", newAuthority(t).file},
	} {
		w := startWorker(t, nil, append([]string{"--nats-url", s.url}, args...)...)
		if status := w.wait(t); status != 1 {
			t.Errorf("%s: exit status %d; want 1", name, status)
		}
		expectParts(t, w.stderr.String(), "kvbus: ", s.address, "certificate")
	}
}

func TestTLSWithClientCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.issue(t, "server")
	s := startServer(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", cert, key, ca.file))

	clientCert, clientKey := ca.issue(t, "worker")
	w := serveOn(t, s.url, "--tls-ca", ca.file, "--tls-cert", clientCert, "--tls-key", clientKey)
	client := connect(t, s.url, nats.RootCAs(ca.file), nats.ClientCert(clientCert, clientKey))
	if got := mustAsk(t, client, "kv.set.color", "blue"); got != "1" {
		t.Errorf("set answers %q; want 1", got)
	}
	w.terminate(t)

	refused := startWorker(t, nil, "--nats-url", s.url, "--tls-ca", ca.file)
	refused.expectExit(t, 1)
	// What the server says of the certificate may be lost with the connection.
	expectParts(t, refused.stderr.String(), "kvbus: ", s.address, "tls")
}

// An authority issues certificates for the loopback interface.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "authority of " + t.Name()},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	a := &authority{cert: template, key: newKey(t)}
	der := a.sign(t, template, a.key)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = writePEM(t, "ca.pem", "CERTIFICATE", der)
	return a
}

// issue returns the files of a certificate and of its key.
func (a *authority) issue(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	der := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: name},
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, name+".pem", "CERTIFICATE", der), writePEM(t, name+".key", "PRIVATE KEY", private)
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	return writeFile(t, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}
