package swarm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	mrand "math/rand/v2"
)

// testCA signs certificates whose only DNS name is the peer's name.
type testCA struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(tb testing.TB) *testCA {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &testCA{tb: tb, cert: cert, key: key, pool: pool}
}

func (ca *testCA) issue(name string) tls.Certificate {
	ca.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (ca *testCA) server(name string) func() (*tls.Config, error) {
	c := &tls.Config{Certificates: []tls.Certificate{ca.issue(name)}, ClientCAs: ca.pool}
	return func() (*tls.Config, error) { return c, nil }
}

func (ca *testCA) client(name string) func() (*tls.Config, error) {
	c := &tls.Config{Certificates: []tls.Certificate{ca.issue(name)}, RootCAs: ca.pool}
	return func() (*tls.Config, error) { return c, nil }
}

func commonName(s tls.ConnectionState) (string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("no certificate")
	}
	return s.PeerCertificates[0].Subject.CommonName, nil
}

func (ca *testCA) config(name string) Config {
	ca.tb.Helper()
	return Config{
		Dir: filepath.Join(ca.tb.TempDir(), "records"), Listen: "127.0.0.1:0", Name: name,
		ServerTLS: ca.server(name), ClientTLS: ca.client(name), PeerName: commonName,
		Logger: slog.New(slog.NewTextHandler(ca.tb.Output(), nil)),
	}
}

// start runs an engine until the end of the test.
func start(tb testing.TB, cfg Config) *Engine {
	tb.Helper()
	return startOpen(tb, cfg, osOpen)
}

func startOpen(tb testing.TB, cfg Config, open openFunc) *Engine {
	tb.Helper()
	e, err := newEngine(cfg, open)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Errorf("close %s: %v", cfg.Name, err)
		}
	})
	return e
}

func (e *Engine) peer() Peer { return Peer{Name: e.cfg.Name, Addr: e.Addr().String()} }

// randomFile writes n random bytes and returns their torrent.
func randomFile(tb testing.TB, n int, seed byte) (Spec, []byte) {
	tb.Helper()
	content := make([]byte, n)
	mrand.NewChaCha8([32]byte{seed}).Read(content)
	path := filepath.Join(tb.TempDir(), "artifact")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		tb.Fatal(err)
	}
	info, hash, err := MakeInfo(tb.Context(), path, "artifact")
	if err != nil {
		tb.Fatal(err)
	}
	return Spec{Info: info, Infohash: hash, Path: path}, content
}

// at returns the torrent of s with its file in a new folder and the given peers.
func at(tb testing.TB, s Spec, peers ...Peer) Spec {
	tb.Helper()
	s.Path = filepath.Join(tb.TempDir(), "fetched")
	s.Peers = peers
	return s
}

func seed(tb testing.TB, e *Engine, s Spec) {
	tb.Helper()
	if err := e.Seed(tb.Context(), s); err != nil {
		tb.Fatal(err)
	}
}

func fetch(tb testing.TB, e *Engine, s Spec) Progress {
	tb.Helper()
	var last Progress
	if err := e.Fetch(tb.Context(), s, func(p Progress) { last = p }); err != nil {
		tb.Fatal(err)
	}
	return last
}

func sameContent(tb testing.TB, path string, want []byte) {
	tb.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if string(got) != string(want) {
		tb.Fatalf("%s: %d bytes differ from the %d seeded", path, len(got), len(want))
	}
}
