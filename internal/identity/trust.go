package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/release"
)

// PayloadTrust is the DSSE payload type of a trust bundle.
const PayloadTrust = "application/vnd.murmur.trust+json"

// Bounds of a trust bundle and of a release's envelope.
const (
	MaxBundle     = 1 << 20 // bytes of a bundle's envelope
	MaxBundleKeys = 1024
	MaxEnvelope   = 1 << 20 // bytes of a release's envelope
	maxPatterns   = 64      // of each sort, for each key
	maxPattern    = 256     // bytes
)

// clockTolerance is by how much the validity of a builder key is stretched at both ends.
const clockTolerance = Backdate

// The errors of trust.
var (
	ErrBundle    = errors.New("the trust bundle is not acceptable")
	ErrOlder     = errors.New("the trust bundle is older than the one in force")
	ErrUntrusted = errors.New("the release is not signed by a key that may sign it")
)

// Bundle is the list of builder keys that a fleet trusts, as the CA signs it. Version grows with every change.
type Bundle struct {
	Version int64            `json:"version"`
	Keys    []record.Builder `json:"keys"`
}

// SignBundle signs a bundle with the CA's key: a DSSE envelope as JSON.
func (c *CA) SignBundle(b Bundle) ([]byte, error) {
	if err := b.valid(); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("sign the trust bundle: %w", err)
	}
	return sealDSSE(caKey{c.Fingerprint(), &c.key.PublicKey, c.key}, PayloadTrust, payload)
}

// OpenBundle verifies that the CA signed the envelope and returns the bundle in it. Errors wrap [ErrBundle].
func OpenBundle(ca *x509.Certificate, envelope []byte) (Bundle, error) {
	pub, ok := ca.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return Bundle{}, fmt.Errorf("%w: the CA's key is no ECDSA key", ErrBundle)
	}
	env, err := parseDSSE(envelope, PayloadTrust, MaxBundle)
	if err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	payload, err := openDSSE(env, caKey{id: Fingerprint(ca), pub: pub})
	if err != nil {
		return Bundle{}, fmt.Errorf("%w: it is not signed by the fleet CA", ErrBundle)
	}
	var b Bundle
	if err := json.Unmarshal(payload, &b); err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if err := b.valid(); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

func (b Bundle) valid() error {
	if b.Version < 1 || len(b.Keys) > MaxBundleKeys {
		return fmt.Errorf("%w: version %d with %d keys; versions start at 1, most %d keys", ErrBundle, b.Version, len(b.Keys), MaxBundleKeys)
	}
	seen := make(map[string]bool, len(b.Keys))
	for _, k := range b.Keys {
		if err := validBuilder(k); err != nil {
			return fmt.Errorf("%w: key %.64q: %w", ErrBundle, k.KeyID, err)
		}
		if seen[k.KeyID] {
			return fmt.Errorf("%w: key %s is listed twice", ErrBundle, k.KeyID)
		}
		seen[k.KeyID] = true
	}
	return nil
}

// validBuilder checks a builder's entry: the key id must be that of the key, patterns must parse.
func validBuilder(b record.Builder) error {
	if len(b.Public) != ed25519.PublicKeySize {
		return fmt.Errorf("the public key is %d bytes, an ed25519 key has %d", len(b.Public), ed25519.PublicKeySize)
	}
	if id := KeyID(b.Public); b.KeyID != id {
		return fmt.Errorf("the key id must be %s", id)
	}
	if b.Name == "" || len(b.Name) > 128 {
		return errors.New("a name of 1 to 128 bytes is needed")
	}
	if !b.NotAfter.IsZero() && !b.NotBefore.Before(b.NotAfter) {
		return errors.New("it ends before it begins")
	}
	if len(b.Services) > maxPatterns || len(b.Refs) > maxPatterns {
		return fmt.Errorf("most %d patterns", maxPatterns)
	}
	for _, p := range slices.Concat(b.Services, b.Refs) {
		if p == "" || len(p) > maxPattern {
			return fmt.Errorf("a pattern has 1 to %d bytes", maxPattern)
		}
		if _, err := path.Match(p, "x"); err != nil {
			return fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	return nil
}

// Trust is the bundle in force: what hosts and seeders decide by. It is safe for concurrent use.
type Trust struct {
	ca      *x509.Certificate
	current atomic.Pointer[trusted]
}

// trusted is a verified bundle.
type trusted struct {
	version  int64
	envelope []byte
	keys     map[string]record.Builder
}

// NewTrust starts with no keys: until [Trust.Update] nothing is trusted.
func NewTrust(ca *x509.Certificate) *Trust {
	t := &Trust{ca: ca}
	t.current.Store(&trusted{})
	return t
}

// Update verifies an envelope and puts its bundle in force. The version in force again is accepted and changes
// nothing; a lower one is refused with [ErrOlder]. Changed reports whether a new bundle is in force.
func (t *Trust) Update(envelope []byte) (changed bool, err error) {
	b, err := OpenBundle(t.ca, envelope)
	if err != nil {
		return false, err
	}
	next := &trusted{version: b.Version, envelope: slices.Clone(envelope), keys: make(map[string]record.Builder, len(b.Keys))}
	for _, k := range b.Keys {
		next.keys[k.KeyID] = k
	}
	for {
		old := t.current.Load()
		if next.version < old.version {
			return false, fmt.Errorf("%w: version %d, in force is %d", ErrOlder, next.version, old.version)
		}
		if next.version == old.version {
			return false, nil
		}
		if t.current.CompareAndSwap(old, next) {
			return true, nil
		}
	}
}

// Version is the version in force; 0 before the first [Trust.Update].
func (t *Trust) Version() int64 { return t.current.Load().version }

// Envelope is the envelope in force, nil before the first [Trust.Update]; it must not be changed.
func (t *Trust) Envelope() []byte { return t.current.Load().envelope }

// VerifyRelease reports which key signed a release, if it may be installed: the envelope is signed by a key in
// force that is not revoked, was valid when the manifest says the release was made (10 min tolerance), and may
// sign this service and ref; and the statement is about exactly this manifest and artifact. M must be what
// manifestBytes decode to. Errors wrap [ErrUntrusted].
//
// The key's validity is compared with the release's own time, not with the present: a release that was good
// once stays installable after the key's rotation, or there would be no way back. Backdating with an old key
// is stopped where releases enter, by [Trust.VerifyPublish], and everywhere by revoking the key.
func (t *Trust) VerifyRelease(m release.Manifest, manifestBytes, envelope []byte) (keyID string, err error) {
	env, err := parseDSSE(envelope, PayloadRelease, MaxEnvelope)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	var why []string
	for _, s := range env.Signatures {
		key, ok := t.current.Load().keys[s.KeyID]
		if !ok {
			why = append(why, fmt.Sprintf("key %.64q is not in the trust bundle (version %d): an admin adds it with `murmur builder add`", s.KeyID, t.Version()))
			continue
		}
		payload, err := openDSSE(env, edKey{pub: key.Public})
		if err == nil {
			err = mayBuild(key, m)
		}
		if err == nil {
			err = checkStatement(payload, m, manifestBytes)
		}
		if err == nil {
			return key.KeyID, nil
		}
		why = append(why, fmt.Sprintf("key %s (%s): %v", key.KeyID, key.Name, err))
	}
	return "", fmt.Errorf("%w: %s", ErrUntrusted, strings.Join(why, "; "))
}

// VerifyPublish is [Trust.VerifyRelease] for a release that is new at time now: the key must be valid now too,
// and the release must not come from the future.
func (t *Trust) VerifyPublish(m release.Manifest, manifestBytes, envelope []byte, now time.Time) (keyID string, err error) {
	keyID, err = t.VerifyRelease(m, manifestBytes, envelope)
	if err != nil {
		return "", err
	}
	if m.CreatedAt.After(now.Add(clockTolerance)) {
		return "", fmt.Errorf("%w: it says it was made at %s, which is in the future: check the builder's clock", ErrUntrusted, m.CreatedAt.UTC().Format(time.RFC3339))
	}
	if err := validAt(t.current.Load().keys[keyID], now); err != nil {
		return "", fmt.Errorf("%w: key %s: %w", ErrUntrusted, keyID, err)
	}
	return keyID, nil
}

func checkStatement(payload []byte, m release.Manifest, manifestBytes []byte) error {
	s, err := release.ParseStatement(payload)
	if err != nil {
		return err
	}
	return s.Check(m, manifestBytes)
}

// mayBuild reports whether the key's entry allows this release.
func mayBuild(k record.Builder, m release.Manifest) error {
	if k.Revoked {
		return errors.New("it was revoked")
	}
	if err := validAt(k, m.CreatedAt); err != nil {
		return err
	}
	if !matchAny(k.Services, m.Service) {
		return fmt.Errorf("it may not sign service %q, only %s", m.Service, strings.Join(k.Services, ", "))
	}
	if !matchAny(k.Refs, m.Ref) {
		return fmt.Errorf("it may not sign ref %q, only %s", m.Ref, strings.Join(k.Refs, ", "))
	}
	return nil
}

func validAt(k record.Builder, at time.Time) error {
	if !k.NotBefore.IsZero() && at.Before(k.NotBefore.Add(-clockTolerance)) {
		return fmt.Errorf("it is valid only from %s on", k.NotBefore.UTC().Format(time.RFC3339))
	}
	if !k.NotAfter.IsZero() && at.After(k.NotAfter.Add(clockTolerance)) {
		return fmt.Errorf("it expired at %s", k.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// matchAny reports whether s fits a pattern; no patterns fit everything. A pattern is that of [path.Match], where
// "*" stops at a slash; a pattern that ends in "/**" fits everything below.
func matchAny(patterns []string, s string) bool {
	if len(patterns) == 0 {
		return true
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		if below, ok := strings.CutSuffix(p, "/**"); ok {
			return strings.HasPrefix(s, below+"/")
		}
		ok, err := path.Match(p, s)
		return err == nil && ok
	})
}
