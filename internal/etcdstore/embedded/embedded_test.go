package embedded_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/murmuration/murmuration/internal/etcdstore"
	"github.com/murmuration/murmuration/internal/etcdstore/embedded"
	"github.com/murmuration/murmuration/internal/record"
)

func start(t *testing.T, cfg embedded.Config) *embedded.Server {
	t.Helper()
	cfg.NoSync = true
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func roundTrip(t *testing.T, endpoints []string, config *tls.Config) {
	t.Helper()
	s, err := etcdstore.Open(t.Context(), etcdstore.Config{Endpoints: endpoints, TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := record.Key{Kind: record.KindService, ID: "web"}
	if _, err := s.Commit(t.Context(), record.Put(k, []byte("1"), record.Any)); err != nil {
		t.Fatal(err)
	}
	if item, err := s.Get(t.Context(), k); err != nil || string(item.Value) != "1" {
		t.Errorf("Get = %q, %v", item.Value, err)
	}
}

func TestPrivateByDefault(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := start(t, embedded.Config{Dir: dir})
	roundTrip(t, s.Endpoints(), nil)
	if !strings.HasPrefix(s.Endpoints()[0], "unix://"+dir) {
		t.Errorf("endpoint %s, want a socket in %s", s.Endpoints()[0], dir)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder %v, %v; want mode 0700", info.Mode(), err)
	}
	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: dir}); !errors.Is(err, embedded.ErrInUse) {
		t.Errorf("second server: %v, want ErrInUse", err)
	}
	roundTrip(t, s.Endpoints(), nil) // the second one did no harm
	s.Stop()
	s.Stop()
	if _, err := os.Stat(filepath.Join(dir, "client.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket after Stop: %v", err)
	}
}

func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	s := start(t, embedded.Config{Dir: dir})
	roundTrip(t, s.Endpoints(), nil)
	s.Stop()
	sockets := filepath.Dir(strings.TrimPrefix(s.Endpoints()[0], "unix://"))
	if _, err := os.Stat(sockets); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("temporary folder %s after Stop: %v", sockets, err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	loose := t.TempDir()
	if err := os.Chmod(loose, 0o755); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "store")
	for name, test := range map[string]struct {
		cfg      embedded.Config
		insecure bool
	}{
		"no folder":              {embedded.Config{}, false},
		"folder others enter":    {embedded.Config{Dir: loose}, true},
		"network without TLS":    {embedded.Config{Dir: fresh, ClientAddr: "0.0.0.0:0"}, true},
		"name without TLS":       {embedded.Config{Dir: fresh, ClientAddr: "localhost:0"}, true},
		"certificate alone":      {embedded.Config{Dir: fresh, ClientAddr: "127.0.0.1:0", CertFile: "x"}, false},
		"address without port":   {embedded.Config{Dir: fresh, ClientAddr: "127.0.0.1"}, false},
		"file instead of folder": {embedded.Config{Dir: "/dev/null"}, false},
	} {
		s, err := embedded.Start(t.Context(), test.cfg)
		if err == nil {
			s.Stop()
			t.Errorf("%s: started", name)
		} else if errors.Is(err, embedded.ErrInsecure) != test.insecure {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := start(t, embedded.Config{Dir: fresh}) // what was refused left nothing locked
	roundTrip(t, s.Endpoints(), nil)
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	s := start(t, embedded.Config{Dir: filepath.Join(t.TempDir(), "store"), ClientAddr: "127.0.0.1:0"})
	if end := s.Endpoints()[0]; !strings.HasPrefix(end, "http://127.0.0.1:") || strings.HasSuffix(end, ":0") {
		t.Errorf("endpoint %s, want the real port", end)
	}
	roundTrip(t, s.Endpoints(), nil)
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.issue(t)
	cfg := embedded.Config{
		Dir: filepath.Join(dir, "store"), ClientAddr: "127.0.0.1:0",
		CertFile: write(t, dir, "cert.pem", cert), KeyFile: write(t, dir, "key.pem", key),
		CAFile: write(t, dir, "ca.pem", ca.pem()),
	}
	s := start(t, cfg)
	roundTrip(t, s.Endpoints(), ca.client(t, ca))
	for name, config := range map[string]*tls.Config{
		"no certificate":                 {RootCAs: ca.pool()},
		"certificate of a stranger's CA": ca.client(t, other),
	} {
		_, err := etcdstore.Open(t.Context(), etcdstore.Config{
			Endpoints: s.Endpoints(), TLS: config, DialTimeout: 500 * time.Millisecond,
		})
		if !errors.Is(err, record.ErrUnavailable) {
			t.Errorf("%s: Open = %v, want ErrUnavailable", name, err)
		}
	}
}

// TestDamaged starts servers whose log another program damaged: that is an error, not the process's end.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*os.File) error{
		"truncated":   func(f *os.File) error { return f.Truncate(7) },
		"overwritten": func(f *os.File) error { _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 512), 64); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "store")
			start(t, embedded.Config{Dir: dir}).Stop()
			damageLog(t, dir, damage)
			s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, NoSync: true})
			if err == nil {
				s.Stop()
				t.Fatal("a damaged store started")
			}
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("error %q does not name %s", err, dir)
			}
		})
	}
}

func damageLog(t *testing.T, dir string, damage func(*os.File) error) {
	t.Helper()
	wals, err := filepath.Glob(filepath.Join(dir, "data", "member", "wal", "*.wal"))
	if err != nil || len(wals) == 0 {
		t.Fatalf("log files %v, %v", wals, err)
	}
	for _, wal := range wals {
		f, err := os.OpenFile(wal, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(damage(f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// authority is a certificate authority for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a certificate for both ends of a connection on loopback.
func (a authority) issue(t *testing.T) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// client trusts a and shows a certificate of issuer.
func (a authority) client(t *testing.T, issuer authority) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(issuer.issue(t))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{RootCAs: a.pool(), Certificates: []tls.Certificate{pair}}
}

func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
