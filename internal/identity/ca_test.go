package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newTestCA(t testing.TB) *CA {
	t.Helper()
	ca, err := NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// newCSR is a certificate request with a new key, which asks for names that must be ignored.
func newCSR(t testing.TB) (csr []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	evil, _ := url.Parse("murmur://seeder/evil")
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"localhost"}, URIs: []*url.URL{evil}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr, key
}

// hostCert is the certificate of a host, with its key.
func hostCert(t testing.TB, ca *CA, id string) *tls.Certificate {
	t.Helper()
	csr, key := newCSR(t)
	der, err := ca.IssueHost(csr, id)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func fixed(c *tls.Certificate) CertFunc {
	return func() (*tls.Certificate, error) { return c, nil }
}

// handshake runs both sides over a pipe. It returns what each side says.
func handshake(client, server *tls.Config) (seen tls.ConnectionState, clientErr, serverErr error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	srv := tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		err := srv.Handshake()
		if err == nil {
			_, err = srv.Write([]byte{1})
		}
		if err != nil {
			b.Close()
		}
		done <- err
	}()
	cli := tls.Client(a, client)
	clientErr = cli.Handshake()
	if clientErr == nil {
		_, clientErr = cli.Read(make([]byte, 1)) // a server refuses a client certificate only after the client is done
	} else {
		a.Close()
	}
	serverErr = <-done
	return srv.ConnectionState(), clientErr, serverErr
}

func TestHandshakes(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	seeder, err := NewServerCert(ca, "s1", "localhost", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	a, b, stranger := hostCert(t, ca, "host-a"), hostCert(t, ca, "host-b"), hostCert(t, other, "host-a")
	revoked := func(p Peer, _ *x509.Certificate) error {
		if p.ID == "host-b" {
			return ErrRevoked
		}
		return nil
	}
	for _, tc := range []struct {
		name           string
		client, server *tls.Config
		ok             bool
	}{
		{"peer to peer", PeerClientConfig(ca.Pool(), fixed(a), "host-b", nil), PeerServerConfig(ca.Pool(), fixed(b), nil), true},
		{"any peer", PeerClientConfig(ca.Pool(), fixed(a), "", nil), PeerServerConfig(ca.Pool(), fixed(b), nil), true},
		{"peer to seeder", PeerClientConfig(ca.Pool(), fixed(a), "seeder:s1", nil), PeerServerConfig(ca.Pool(), seeder.Certificate, nil), true},
		{"someone else", PeerClientConfig(ca.Pool(), fixed(a), "host-c", nil), PeerServerConfig(ca.Pool(), fixed(b), nil), false},
		{"client of another fleet", PeerClientConfig(ca.Pool(), fixed(stranger), "", nil), PeerServerConfig(ca.Pool(), fixed(b), nil), false},
		{"server of another fleet", PeerClientConfig(ca.Pool(), fixed(a), "", nil), PeerServerConfig(ca.Pool(), fixed(stranger), nil), false},
		{"no client certificate", SeederClientConfig(ca.Pool(), nil, ""), PeerServerConfig(ca.Pool(), seeder.Certificate, nil), false},
		{"revoked client", PeerClientConfig(ca.Pool(), fixed(b), "", nil), PeerServerConfig(ca.Pool(), fixed(a), revoked), false},
		{"revoked server", PeerClientConfig(ca.Pool(), fixed(a), "", revoked), PeerServerConfig(ca.Pool(), fixed(b), nil), false},
		{"host to API", SeederClientConfig(ca.Pool(), fixed(a), "localhost"), ServerConfig(ca.Pool(), seeder.Certificate, nil), true},
		{"person to API", SeederClientConfig(ca.Pool(), nil, "127.0.0.1"), ServerConfig(ca.Pool(), seeder.Certificate, nil), true},
		{"API under another name", SeederClientConfig(ca.Pool(), nil, "example.org"), ServerConfig(ca.Pool(), seeder.Certificate, nil), false},
		{"host posing as API", SeederClientConfig(ca.Pool(), fixed(a), ""), ServerConfig(ca.Pool(), fixed(b), nil), false},
		{"revoked host to API", SeederClientConfig(ca.Pool(), fixed(b), ""), ServerConfig(ca.Pool(), seeder.Certificate, revoked), false},
		{"stranger to API", SeederClientConfig(ca.Pool(), fixed(stranger), ""), ServerConfig(ca.Pool(), seeder.Certificate, nil), false},
		{"pinned", pinnedConfig(ca.Fingerprint()), ServerConfig(ca.Pool(), seeder.Certificate, nil), true},
		{"pinned to another fleet", pinnedConfig(other.Fingerprint()), ServerConfig(ca.Pool(), seeder.Certificate, nil), false},
		{"pinned to the leaf", pinnedConfig(Fingerprint(mustCert(t, seeder).Leaf)), ServerConfig(ca.Pool(), seeder.Certificate, nil), false},
		{"plain Go client, by name", &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}, ServerConfig(ca.Pool(), seeder.Certificate, nil), true},
		{"plain Go client, host posing as API", &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}, ServerConfig(ca.Pool(), fixed(a), nil), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, cliErr, srvErr := handshake(tc.client, tc.server)
			if ok := cliErr == nil && srvErr == nil; ok != tc.ok {
				t.Errorf("client: %v, server: %v; want success %t", cliErr, srvErr, tc.ok)
			}
		})
	}
}

func mustCert(t testing.TB, s *ServerCert) *tls.Certificate {
	t.Helper()
	c, err := s.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPeerOfConn(t *testing.T) {
	ca := newTestCA(t)
	a, b := hostCert(t, ca, "host-a"), hostCert(t, ca, "host-b")
	seen, _, _ := handshake(PeerClientConfig(ca.Pool(), fixed(a), "host-b", nil), PeerServerConfig(ca.Pool(), fixed(b), nil))
	if p, err := PeerOfConn(seen); err != nil || p != (Peer{KindHost, "host-a"}) {
		t.Errorf("PeerOfConn = %v, %v", p, err)
	}
}

func TestCertificateIgnoresNamesInRequest(t *testing.T) {
	cert := hostCert(t, newTestCA(t), "host-a").Leaf
	if p, err := PeerOf(cert); err != nil || p != (Peer{KindHost, "host-a"}) {
		t.Errorf("PeerOf = %v, %v; want the host", p, err)
	}
	if len(cert.DNSNames) != 0 || len(cert.IPAddresses) != 0 || cert.IsCA {
		t.Errorf("a host's certificate has names %v %v, CA %t", cert.DNSNames, cert.IPAddresses, cert.IsCA)
	}
}

func TestCertificateLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t)
		server, err := NewServerCert(ca, "s1", "localhost")
		if err != nil {
			t.Fatal(err)
		}
		first, host := mustCert(t, server), hostCert(t, ca, "host-a")
		try := func() error {
			_, cliErr, srvErr := handshake(SeederClientConfig(ca.Pool(), fixed(host), ""), ServerConfig(ca.Pool(), server.Certificate, nil))
			return errors.Join(cliErr, srvErr)
		}
		if err := try(); err != nil {
			t.Fatalf("new certificates: %v", err)
		}
		time.Sleep(19 * 24 * time.Hour)
		if mustCert(t, server) != first {
			t.Error("the server's certificate was renewed before two thirds of its life")
		}
		time.Sleep(2 * 24 * time.Hour)
		if mustCert(t, server) == first {
			t.Error("the server's certificate was not renewed after two thirds of its life")
		}
		if !time.Now().After(RenewAt(host.Leaf)) {
			t.Error("the host's certificate is not due for renewal after 21 days")
		}
		time.Sleep(8 * 24 * time.Hour)
		if err := try(); err != nil {
			t.Errorf("after 29 days: %v", err)
		}
		time.Sleep(2 * 24 * time.Hour)
		if err := try(); err == nil {
			t.Error("an expired host certificate was accepted")
		}
	})
}

func TestClockSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The issuer's clock is ahead of the verifier's by less than the backdating, then by more.
		start := time.Now()
		time.Sleep(CATTL / 2)
		ca, err := NewCA("test", start)
		if err != nil {
			t.Fatal(err)
		}
		cert := hostCert(t, ca, "host-a").Leaf
		for _, tc := range []struct {
			behind time.Duration
			ok     bool
		}{{0, true}, {9 * time.Minute, true}, {11 * time.Minute, false}} {
			_, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: time.Now().Add(-tc.behind), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if (err == nil) != tc.ok {
				t.Errorf("clock behind by %v: %v, want accepted %t", tc.behind, err, tc.ok)
			}
			if err != nil && !strings.Contains(explainVerify(err).Error(), "clock") {
				t.Errorf("the error does not mention clocks: %v", explainVerify(err))
			}
		}
	})
}

func TestBadRequests(t *testing.T) {
	ca := newTestCA(t)
	good, _ := newCSR(t)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weakCSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	tampered := append([]byte(nil), good...)
	tampered[len(tampered)-3] ^= 1
	for name, csr := range map[string][]byte{
		"empty": nil, "garbage": []byte("hello"), "weak key": weakCSR, "wrong signature": tampered, "huge": make([]byte, maxCSR+1),
	} {
		if _, err := ca.IssueHost(csr, "host-a"); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v, want ErrBadRequest", name, err)
		}
	}
	for _, id := range []string{"", "a/b", "..", "a b", "é", strings.Repeat("x", 129)} {
		if _, err := ca.IssueHost(good, id); err == nil {
			t.Errorf("host id %q was accepted", id)
		}
	}
}

func TestPeerOfRefuses(t *testing.T) {
	for _, raw := range [][]string{
		{}, {"https://example.org/"}, {"murmur://host/a", "murmur://host/b"}, {"murmur://robot/a"}, {"murmur://host/"},
		{"murmur://host/a/b"}, {"murmur://host/a?x=1"}, {"murmur://host/a#f"}, {"murmur://u@host/a"}, {"murmur://host:1/a"}, {"murmur://host/%61"},
	} {
		cert := &x509.Certificate{}
		for _, s := range raw {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		if p, err := PeerOf(cert); !errors.Is(err, ErrNotFleet) {
			t.Errorf("%q: %v, %v; want ErrNotFleet", raw, p, err)
		}
	}
}

func TestCASaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "ca.pem")
	if _, err := LoadCA(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing: %v", err)
	}
	ca, err := LoadOrNewCA(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrNewCA(path, "test")
	if err != nil || again.Fingerprint() != ca.Fingerprint() {
		t.Fatalf("loaded again: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a CA key that others may read was loaded: %v", err)
	}
}
