package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Kind is what a certificate of the fleet stands for.
type Kind string

// The kinds of certificate holder.
const (
	KindHost   Kind = "host"   // an agent
	KindSeeder Kind = "seeder" // a server of the control plane
	KindUser   Kind = "user"   // a person; reserved, no such certificates are issued today
)

// ErrNotFleet is returned for a certificate that carries no identity of this fleet.
var ErrNotFleet = errors.New("the certificate carries no murmur:// identity")

// maxPeerID bounds a peer's id, in bytes.
const maxPeerID = 128

// Peer is who a certificate says its holder is. The zero Peer is nobody.
type Peer struct {
	Kind Kind
	ID   string
}

// IsZero reports whether p is nobody.
func (p Peer) IsZero() bool { return p == Peer{} }

// Name is the peer's name in the swarm, as in murmur.v1.Peer.host_id: a host's id as it is, "seeder:<id>" for a
// seeder, "user:<name>" for a person.
func (p Peer) Name() string {
	if p.Kind == KindHost {
		return p.ID
	}
	return string(p.Kind) + ":" + p.ID
}

// String is the identity as the certificate spells it: "murmur://host/<id>".
func (p Peer) String() string { return "murmur://" + string(p.Kind) + "/" + p.ID }

// uri is the URI SAN of the peer's certificate.
func (p Peer) uri() *url.URL {
	return &url.URL{Scheme: "murmur", Host: string(p.Kind), Path: "/" + p.ID}
}

// Valid reports whether the peer can be named by a certificate: a known kind and an id of 1 to 128 bytes of
// letters, digits, dot, dash and underscore.
func (p Peer) Valid() error {
	switch p.Kind {
	case KindHost, KindSeeder, KindUser:
	default:
		return fmt.Errorf("peer kind %q is unknown", p.Kind)
	}
	if p.ID == "" || len(p.ID) > maxPeerID || p.ID == "." || p.ID == ".." {
		return fmt.Errorf("peer id %q: 1 to %d bytes are needed", p.ID, maxPeerID)
	}
	if i := strings.IndexFunc(p.ID, notIDRune); i >= 0 {
		return fmt.Errorf("peer id %q: only letters, digits, '.', '-' and '_' are allowed", p.ID)
	}
	return nil
}

// notIDRune reports whether r may not be part of a peer's id.
func notIDRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return r != '.' && r != '-' && r != '_'
}

// PeerOf reads the identity of a certificate: exactly one URI SAN of the scheme murmur. It does not verify the
// certificate. The error wraps [ErrNotFleet].
func PeerOf(cert *x509.Certificate) (Peer, error) {
	var found Peer
	for _, u := range cert.URIs {
		if u.Scheme != "murmur" {
			continue
		}
		if !found.IsZero() {
			return Peer{}, fmt.Errorf("%w: it carries two", ErrNotFleet)
		}
		p, err := parsePeer(u)
		if err != nil {
			return Peer{}, fmt.Errorf("%w: %w", ErrNotFleet, err)
		}
		found = p
	}
	if found.IsZero() {
		return Peer{}, ErrNotFleet
	}
	return found, nil
}

func parsePeer(u *url.URL) (Peer, error) {
	p := Peer{Kind: Kind(u.Host), ID: strings.TrimPrefix(u.Path, "/")}
	if err := p.Valid(); err != nil {
		return Peer{}, err
	}
	if u.String() != p.String() {
		return Peer{}, fmt.Errorf("identity %q is not in its plain form %q", u, p)
	}
	return p, nil
}
