package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// CertFunc returns the certificate to present now. It is asked at every handshake, so a rotated certificate is
// used without a restart. It must be safe for concurrent use.
type CertFunc func() (*tls.Certificate, error)

// RevokedFunc reports whether a certificate that is otherwise valid is void, as an error that says why. It must
// be safe for concurrent use and must not block: it runs inside handshakes.
type RevokedFunc func(Peer, *x509.Certificate) error

// ErrWrongPeer is returned when the other side's certificate is of the fleet but not of whom we called.
var ErrWrongPeer = errors.New("the other side is someone else than expected")

// ServerConfig is the TLS configuration of an API server: TLS 1.3, our certificate, and client certificates of the
// fleet welcome but not needed (people come with a bearer token). Revoked may be nil.
func ServerConfig(roots *x509.CertPool, cert CertFunc, revoked RevokedFunc) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert() },
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      roots,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			_, err := checkPeer(cs, revoked)
			return err
		},
	}
}

// PeerServerConfig is the TLS configuration of the listening side of the swarm and of sessions: like
// [ServerConfig], but a fleet certificate is required.
func PeerServerConfig(roots *x509.CertPool, cert CertFunc, revoked RevokedFunc) *tls.Config {
	c := ServerConfig(roots, cert, revoked)
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := checkPeer(cs, revoked)
		return err
	}
	return c
}

// PeerClientConfig is the TLS configuration of the dialing side of the swarm: mutual TLS with whoever has a
// certificate of the fleet and is named want ([Peer.Name]); want "" accepts any peer of the fleet.
func PeerClientConfig(roots *x509.CertPool, cert CertFunc, want string, revoked RevokedFunc) *tls.Config {
	return clientConfig(roots, cert, func(cs tls.ConnectionState) error {
		p, err := checkPeer(cs, revoked)
		if err != nil {
			return err
		}
		if want != "" && p.Name() != want {
			return fmt.Errorf("%w: want %s, got %s", ErrWrongPeer, want, p.Name())
		}
		return nil
	}, "")
}

// SeederClientConfig is the TLS configuration for calling the control plane: the server must have a certificate
// of the fleet that says it is a seeder and, when serverName is not "", is valid for that name or address.
// Cert may be nil for a caller without a certificate.
func SeederClientConfig(roots *x509.CertPool, cert CertFunc, serverName string) *tls.Config {
	return clientConfig(roots, cert, checkSeeder, serverName)
}

// checkSeeder accepts a verified connection to a seeder only.
func checkSeeder(cs tls.ConnectionState) error {
	p, err := checkPeer(cs, nil)
	if err != nil {
		return err
	}
	if p.Kind != KindSeeder {
		return fmt.Errorf("%w: want a seeder, got %s", ErrWrongPeer, p)
	}
	return nil
}

// clientConfig verifies the server itself: the names that Go would check do not exist in certificates of
// hosts, and what counts is who the certificate says the server is.
func clientConfig(roots *x509.CertPool, cert CertFunc, check func(tls.ConnectionState) error, name string) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The chain is verified in VerifyConnection, which runs for every connection and cannot be skipped.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := verifyServer(&cs, roots, name); err != nil {
				return err
			}
			return check(cs)
		},
	}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert() }
	}
	return c
}

// verifyServer verifies the chain a server presented and notes it in cs.
func verifyServer(cs *tls.ConnectionState, roots *x509.CertPool, name string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server presented no certificate")
	}
	opts := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: poolOf(cs.PeerCertificates[1:]...),
		DNSName:       name,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	chains, err := cs.PeerCertificates[0].Verify(opts)
	if err != nil {
		return explainVerify(err)
	}
	cs.VerifiedChains = chains
	return nil
}

// pinnedConfig verifies a server whose CA is known by fingerprint only: the server presents the CA's certificate
// in its chain, the fingerprint says which one it must be, and the rest is verified as ever.
func pinnedConfig(fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // verified in VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			i := slices.IndexFunc(cs.PeerCertificates, func(c *x509.Certificate) bool { return c.IsCA && Fingerprint(c) == fingerprint })
			if i < 0 {
				return errors.New("the server does not belong to the fleet that made the token: check the address, or ask for a new token")
			}
			if err := verifyServer(&cs, poolOf(cs.PeerCertificates[i]), ""); err != nil {
				return err
			}
			return checkSeeder(cs)
		},
	}
}

// explainVerify adds the next step to errors that operators meet.
func explainVerify(err error) error {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return fmt.Errorf("%w: compare this machine's clock (%s) with the server's", err, time.Now().UTC().Format(time.RFC3339))
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w: the other side belongs to another fleet, or the CA file is of another fleet", err)
	}
	return err
}

// checkPeer reads the identity of a verified connection and asks whether it is revoked.
func checkPeer(cs tls.ConnectionState, revoked RevokedFunc) (Peer, error) {
	p, cert, err := verifiedPeer(&cs)
	if err != nil {
		return Peer{}, err
	}
	if revoked != nil {
		if err := revoked(p, cert); err != nil {
			return Peer{}, err
		}
	}
	return p, nil
}

// verifiedPeer is the identity of the other side of a connection whose chain was verified.
func verifiedPeer(cs *tls.ConnectionState) (Peer, *x509.Certificate, error) {
	if len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return Peer{}, nil, errors.New("the other side's certificate was not verified")
	}
	cert := cs.VerifiedChains[0][0]
	p, err := PeerOf(cert)
	return p, cert, err
}

// PeerOfConn is who the other side of a connection is. The connection must come from one of this package's
// configurations and its handshake must be over.
func PeerOfConn(cs tls.ConnectionState) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNotFleet
	}
	return PeerOf(cs.PeerCertificates[0])
}

// ServerCert issues and renews the certificate of a seeder that holds the CA. The key lives in memory only.
type ServerCert struct {
	ca  *CA
	id  string
	dns []string
	ips []net.IP

	mu   sync.Mutex
	cert *tls.Certificate
}

// NewServerCert issues the first certificate. Names may be DNS names or addresses, for example "localhost",
// "127.0.0.1".
func NewServerCert(ca *CA, seederID string, names ...string) (*ServerCert, error) {
	s := &ServerCert{ca: ca, id: seederID}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			s.ips = append(s.ips, ip)
			continue
		}
		s.dns = append(s.dns, name)
	}
	if _, err := s.Certificate(); err != nil {
		return nil, err
	}
	return s, nil
}

// Certificate is a [CertFunc]: the present certificate, or a new one when two thirds of its life are over. While
// no new one can be made, the present one is used to its end.
func (s *ServerCert) Certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil && time.Now().Before(RenewAt(s.cert.Leaf)) {
		return s.cert, nil
	}
	cert, err := s.ca.IssueServer(s.id, s.dns, s.ips)
	if err != nil {
		if s.cert != nil {
			return s.cert, nil
		}
		return nil, err
	}
	s.cert = cert
	return cert, nil
}
