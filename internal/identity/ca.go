package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"time"
)

// Lifetimes of certificates. A certificate is renewed when two thirds of its life are over, so a host may be off
// for a third of it and still be known.
const (
	DefaultTTL = 30 * 24 * time.Hour
	CATTL      = 10 * 365 * 24 * time.Hour
	// Backdate is by how much a certificate is valid before it was issued: clocks of a fleet differ.
	Backdate = 10 * time.Minute
)

// maxCSR bounds a certificate request, in bytes.
const maxCSR = 16 << 10

// CA is the fleet's certificate authority: an ECDSA P-256 key and its self-signed certificate. It issues the
// certificates of hosts and seeders and signs the trust bundle. It is safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// TTL is the life of the certificates it issues; 0 means [DefaultTTL]. Set it before first use.
	TTL time.Duration
}

// NewCA makes a CA with a new key, valid for [CATTL] from now. Name is for people.
func NewCA(name string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the fleet CA's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name + " fleet CA"},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(CATTL),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the fleet CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the fleet CA's certificate: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// LoadCA reads the CA that [CA.Save] wrote. A missing file is an error wrapping fs.ErrNotExist.
func LoadCA(path string) (*CA, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("load the fleet CA: %w", err)
	}
	certs, key, err := decodePEM(data)
	if err != nil {
		return nil, fmt.Errorf("load the fleet CA from %s: %w", path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || len(certs) != 1 || !certs[0].IsCA || !ec.PublicKey.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("load the fleet CA from %s: the file must hold one CA certificate and its ECDSA key", path)
	}
	return &CA{cert: certs[0], key: ec}, nil
}

// LoadOrNewCA loads the CA at path, or makes one and saves it there when there is none.
func LoadOrNewCA(path, name string) (*CA, error) {
	ca, err := LoadCA(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return ca, err
	}
	if ca, err = NewCA(name, time.Now()); err != nil {
		return nil, err
	}
	return ca, ca.Save(path)
}

// Save writes certificate and key as PEM, mode 0600, durably.
func (c *CA) Save(path string) error {
	data, err := encodePEM(c.key, c.cert.Raw)
	if err != nil {
		return err
	}
	return writePrivate(path, data)
}

// Certificate is the CA's certificate; it must not be changed.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// CertPEM is the CA's certificate as PEM: what clients trust.
func (c *CA) CertPEM() []byte {
	return certPEM(c.cert)
}

// Pool is a new pool that holds the CA's certificate and nothing else.
func (c *CA) Pool() *x509.CertPool { return poolOf(c.cert) }

// Fingerprint is the SHA-256 of the CA's certificate, lower-case hex. Join tokens carry it.
func (c *CA) Fingerprint() string { return Fingerprint(c.cert) }

// Fingerprint is the SHA-256 of a certificate, lower-case hex.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// IssueHost signs a certificate for a host. Of the request only the public key is used (ECDSA P-256 or ed25519)
// and its proof of possession is checked; every name in it is ignored. The result is DER.
func (c *CA) IssueHost(csrDER []byte, hostID string) ([]byte, error) {
	pub, err := csrKey(csrDER)
	if err != nil {
		return nil, err
	}
	return c.issue(Peer{KindHost, hostID}, pub, nil, nil)
}

// IssueServer makes a key and a certificate for a seeder, valid for the names and addresses given.
func (c *CA) IssueServer(seederID string, dnsNames []string, ips []net.IP) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issue the certificate of seeder %s: %w", seederID, err)
	}
	der, err := c.issue(Peer{KindSeeder, seederID}, key.Public(), dnsNames, ips)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue the certificate of seeder %s: %w", seederID, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, c.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func (c *CA) issue(p Peer, pub crypto.PublicKey, dnsNames []string, ips []net.IP) ([]byte, error) {
	if err := p.Valid(); err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	ttl := c.TTL
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: p.Name()},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(ttl),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              dnsNames,
		IPAddresses:           ips,
	}
	template.URIs = append(template.URIs, p.uri())
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, pub, c.key)
	if err != nil {
		return nil, fmt.Errorf("issue the certificate of %s: %w", p, err)
	}
	return der, nil
}

// csrKey checks a certificate request and returns its public key.
func csrKey(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%w: %d bytes, most %d", ErrBadRequest, len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: its signature does not fit its key", ErrBadRequest)
	}
	switch k := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	case ed25519.PublicKey:
		return k, nil
	}
	return nil, fmt.Errorf("%w: the key must be ECDSA P-256 or ed25519", ErrBadRequest)
}

// RenewAt is when a certificate should be replaced: two thirds into its life.
func RenewAt(cert *x509.Certificate) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(life * 2 / 3)
}

// Serial is how a certificate's serial number is spelled in revocations: hex without sign or prefix.
func Serial(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and always 16 bytes long
	return new(big.Int).SetBytes(b), nil
}

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

func certPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// encodePEM renders certificates and their key as one PEM file.
func encodePEM(key crypto.PrivateKey, certs ...[]byte) ([]byte, error) {
	var out bytes.Buffer
	for _, der := range certs {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, fmt.Errorf("encode a certificate: %w", err)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	if err := pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return out.Bytes(), nil
}

// decodePEM reads what encodePEM wrote.
func decodePEM(data []byte) (certs []*x509.Certificate, key crypto.PrivateKey, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, cert)
		case "PRIVATE KEY":
			if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
				return nil, nil, errors.New("the private key cannot be read")
			}
		default:
			return nil, nil, fmt.Errorf("unexpected PEM block %q", block.Type)
		}
	}
	if len(certs) == 0 && key == nil {
		return nil, nil, errors.New("no certificate or key in it")
	}
	return certs, key, nil
}
