package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// The files of a [HostStore], all of mode 0600.
const (
	fileHost  = "host.pem"      // certificate and key, replaced together
	fileCA    = "ca.pem"        // the fleet CA's certificate
	fileInfo  = "host.json"     // id and seeders
	fileTrust = "trust.json"    // the newest trust bundle's envelope
	fileKey   = "join-key.pem"  // the key of a join whose answer has not come yet
	fileRenew = "renew-key.pem" // the key of a renewal whose answer has not come yet
)

// ErrNotJoined is returned by [OpenHost] for a folder without a host's identity.
var ErrNotJoined = errors.New("this host has not joined a fleet yet: run `murmur-agent join URL TOKEN`")

// callTimeout bounds one call to the control plane.
const callTimeout = 30 * time.Second

// HostStore is a host's identity on its disk: key, certificate, fleet CA and trust bundle. It is safe for
// concurrent use by one process.
type HostStore struct {
	dir   string
	info  hostInfo
	ca    *x509.Certificate
	cert  atomic.Pointer[tls.Certificate]
	trust *Trust
}

// hostInfo is what host.json holds.
type hostInfo struct {
	HostID  string   `json:"host_id"`
	Seeders []string `json:"seeders"`
}

// OpenHost opens the identity in dir. It returns [ErrNotJoined] when there is none. A trust bundle that
// does not verify is an error: the file was changed.
func OpenHost(dir string) (*HostStore, error) {
	s := &HostStore{dir: dir}
	data, err := readPrivate(filepath.Join(dir, fileInfo))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (looked in %s)", ErrNotJoined, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open the host's identity: %w", err)
	}
	if err := json.Unmarshal(data, &s.info); err != nil {
		return nil, fmt.Errorf("open the host's identity: %s: %w", fileInfo, err)
	}
	if err := s.loadCerts(); err != nil {
		return nil, fmt.Errorf("open the host's identity in %s: %w", dir, err)
	}
	if err := s.loadTrust(); err != nil {
		return nil, fmt.Errorf("open the host's identity in %s: %w", dir, err)
	}
	return s, nil
}

func (s *HostStore) loadCerts() error {
	data, err := readPrivate(filepath.Join(s.dir, fileCA))
	if err != nil {
		return err
	}
	cas, _, err := decodePEM(data)
	if err != nil || len(cas) != 1 {
		return fmt.Errorf("%s must hold one certificate: %w", fileCA, err)
	}
	s.ca = cas[0]
	if data, err = readPrivate(filepath.Join(s.dir, fileHost)); err != nil {
		return err
	}
	certs, key, err := decodePEM(data)
	if err != nil || len(certs) != 1 || key == nil {
		return fmt.Errorf("%s must hold one certificate and its key: %w", fileHost, err)
	}
	return s.useCert(certs[0], key)
}

// useCert checks that the certificate is this host's, of this fleet and fits the key, and uses it.
func (s *HostStore) useCert(cert *x509.Certificate, key crypto.PrivateKey) error {
	p, err := PeerOf(cert)
	if err != nil {
		return err
	}
	if want := (Peer{KindHost, s.info.HostID}); p != want {
		return fmt.Errorf("the certificate is for %s, this host is %s", p, want)
	}
	if err := cert.CheckSignatureFrom(s.ca); err != nil {
		return fmt.Errorf("the certificate is not signed by the fleet CA: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok || !samePublic(signer.Public(), cert.PublicKey) {
		return errors.New("certificate and key do not belong together")
	}
	s.cert.Store(&tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert})
	return nil
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func (s *HostStore) loadTrust() error {
	s.trust = NewTrust(s.ca)
	data, err := readPrivate(filepath.Join(s.dir, fileTrust))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = s.trust.Update(data)
	return err
}

// HostID is the host's id.
func (s *HostStore) HostID() string { return s.info.HostID }

// Seeders are the base URLs of the control plane that the host was told when it joined.
func (s *HostStore) Seeders() []string { return s.info.Seeders }

// CA is the fleet CA's certificate; it must not be changed.
func (s *HostStore) CA() *x509.Certificate { return s.ca }

// Roots is a new pool with the fleet CA in it.
func (s *HostStore) Roots() *x509.CertPool { return poolOf(s.ca) }

// Certificate is a [CertFunc]: the newest certificate of the host.
func (s *HostStore) Certificate() (*tls.Certificate, error) { return s.cert.Load(), nil }

// RenewAt is when [HostStore.Renew] is due. Callers add jitter.
func (s *HostStore) RenewAt() time.Time { return RenewAt(s.cert.Load().Leaf) }

// Trust is the trust bundle in force on this host.
func (s *HostStore) Trust() *Trust { return s.trust }

// UpdateTrust verifies a pushed trust bundle, stores it and puts it in force. See [Trust.Update] for errors.
func (s *HostStore) UpdateTrust(envelope []byte) (changed bool, err error) {
	changed, err = s.trust.Update(envelope)
	if err != nil || !changed {
		return false, err
	}
	if err := writePrivate(filepath.Join(s.dir, fileTrust), s.trust.Envelope()); err != nil {
		return true, fmt.Errorf("store the trust bundle: %w", err)
	}
	return true, nil
}

// HTTPClient is a client for the control plane with the host's certificate, asked at every handshake.
func (s *HostStore) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:     SeederClientConfig(s.Roots(), s.Certificate, ""),
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
	}}
}

// Renew asks a seeder for a certificate for a new key and uses it once it is on disk. The key of an attempt
// whose answer was lost is used again.
func (s *HostStore) Renew(ctx context.Context, seederURL string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key, csr, err := s.pendingKey(fileRenew)
	if err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	hc := s.HTTPClient()
	defer hc.CloseIdleConnections()
	client := murmurv1connect.NewIdentityServiceClient(hc, seederURL)
	resp, err := client.RenewCertificate(ctx, connect.NewRequest(&murmurv1.RenewCertificateRequest{Csr: csr}))
	if err != nil {
		return fmt.Errorf("renew the certificate at %s: %w", seederURL, err)
	}
	if err := s.adopt(resp.Msg.Certificate, key); err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	return s.forget(fileRenew)
}

// adopt checks a new certificate, stores it with its key and uses it.
func (s *HostStore) adopt(der []byte, key crypto.PrivateKey) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("the answer holds no certificate: %w", err)
	}
	data, err := encodePEM(key, der)
	if err != nil {
		return err
	}
	before := s.cert.Load()
	if err := s.useCert(cert, key); err != nil {
		return err
	}
	if err := writePrivate(filepath.Join(s.dir, fileHost), data); err != nil {
		s.cert.Store(before)
		return err
	}
	return nil
}

// forget removes the key of an attempt that succeeded. Left behind, it is used by the next attempt.
func (s *HostStore) forget(pending string) error {
	err := os.Remove(filepath.Join(s.dir, pending))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pendingKey loads the key of an unfinished attempt, or makes and stores one, and a certificate request for it.
func (s *HostStore) pendingKey(name string) (crypto.Signer, []byte, error) {
	path := filepath.Join(s.dir, name)
	key, err := loadKey(path)
	if err != nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, err
		}
		data, err := encodePEM(key)
		if err != nil {
			return nil, nil, err
		}
		if err := writePrivate(path, data); err != nil {
			return nil, nil, err
		}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return key, csr, err
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	_, key, err := decodePEM(data)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("no ECDSA key")
	}
	return ec, nil
}

// Join makes this machine a host of a fleet: it trades a one-time token for a certificate and stores the identity
// in dir. The server is verified by the CA fingerprint in the token, before the token is sent. Calling it
// again after a lost answer, with the same dir and token, gets the same host. A folder that holds an identity
// already is an error.
func Join(ctx context.Context, dir, seederURL, token, name string, labels map[string]string) (*HostStore, error) {
	t, err := ParseJoinToken(strings.TrimSpace(token))
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(seederURL); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("join: %q is not the URL of a seeder: it must start with https://", seederURL)
	}
	switch s, err := OpenHost(dir); {
	case err == nil:
		return nil, fmt.Errorf("join: %s holds the identity of host %s already: remove the folder to join anew", dir, s.HostID())
	case !errors.Is(err, ErrNotJoined):
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := &HostStore{dir: dir}
	key, csr, err := s.pendingKey(fileKey)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	resp, err := callJoin(ctx, seederURL, t, &murmurv1.JoinRequest{Token: t.String(), Name: name, Labels: labels, Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("join at %s: %w", seederURL, err)
	}
	if err := s.settle(resp, key, t, seederURL); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return s, nil
}

// callJoin calls the server, which must prove that it belongs to the fleet of the token.
func callJoin(ctx context.Context, seederURL string, t JoinToken, req *murmurv1.JoinRequest) (*murmurv1.JoinResponse, error) {
	transport := &http.Transport{TLSClientConfig: pinnedConfig(t.CA), ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second}
	defer transport.CloseIdleConnections()
	client := murmurv1connect.NewIdentityServiceClient(&http.Client{Transport: transport}, seederURL, connect.WithReadMaxBytes(4<<20))
	resp, err := client.Join(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// settle checks the answer to a join and writes it down; host.json is last, so a crash before it means that
// the host has not joined and may do it again.
func (s *HostStore) settle(resp *murmurv1.JoinResponse, key crypto.PrivateKey, t JoinToken, seederURL string) error {
	ca, err := x509.ParseCertificate(resp.Ca)
	if err != nil {
		return fmt.Errorf("the answer holds no CA certificate: %w", err)
	}
	if Fingerprint(ca) != t.CA {
		return errors.New("the CA in the answer is not the one in the token")
	}
	s.ca, s.trust = ca, NewTrust(ca)
	s.info = hostInfo{HostID: resp.HostId, Seeders: resp.Seeders}
	if len(s.info.Seeders) == 0 {
		s.info.Seeders = []string{seederURL}
	}
	if err := writePrivate(filepath.Join(s.dir, fileCA), certPEM(ca)); err != nil {
		return err
	}
	if env := resp.GetTrust().GetEnvelope(); len(env) > 0 {
		if _, err := s.UpdateTrust(env); err != nil {
			return err
		}
	}
	if err := s.adopt(resp.Certificate, key); err != nil {
		return err
	}
	data, err := json.Marshal(s.info)
	if err != nil {
		return err
	}
	if err := writePrivate(filepath.Join(s.dir, fileInfo), data); err != nil {
		return err
	}
	return s.forget(fileKey)
}
