package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// PayloadRelease is the DSSE payload type of a release's provenance: an in-toto statement.
const PayloadRelease = "application/vnd.in-toto+json"

// errSignature is what the verifiers of this package answer; the key that failed is named by the caller.
var errSignature = errors.New("the signature does not fit")

// Signer is a builder's ed25519 key. It is safe for concurrent use.
type Signer struct {
	key ed25519.PrivateKey
	id  string
}

// NewSigner makes a new key.
func NewSigner() (*Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a builder key: %w", err)
	}
	return signerOf(key), nil
}

func signerOf(key ed25519.PrivateKey) *Signer {
	return &Signer{key: key, id: KeyID(key.Public().(ed25519.PublicKey))}
}

// LoadSigner reads the key that [Signer.Save] wrote. It refuses a file that others may read. A missing file is
// an error wrapping fs.ErrNotExist.
func LoadSigner(path string) (*Signer, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("load the builder key: %w", err)
	}
	_, key, err := decodePEM(data)
	if err != nil {
		return nil, fmt.Errorf("load the builder key from %s: %w", path, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load the builder key from %s: it holds no ed25519 key", path)
	}
	return signerOf(ed), nil
}

// LoadOrNewSigner loads the key at path, or makes one and saves it there when there is none.
func LoadOrNewSigner(path string) (*Signer, error) {
	s, err := LoadSigner(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if s, err = NewSigner(); err != nil {
		return nil, err
	}
	return s, s.Save(path)
}

// Save writes the key as PEM, mode 0600, durably.
func (s *Signer) Save(path string) error {
	data, err := encodePEM(s.key)
	if err != nil {
		return err
	}
	if err := writePrivate(path, data); err != nil {
		return fmt.Errorf("save the builder key: %w", err)
	}
	return nil
}

// KeyID is the name of the signer's key. See [KeyID].
func (s *Signer) KeyID() string { return s.id }

// Public is the public key: 32 bytes.
func (s *Signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// SignRelease puts an in-toto statement into a signed DSSE envelope, as JSON.
func (s *Signer) SignRelease(statement []byte) ([]byte, error) {
	return sealDSSE(edKey{s.Public(), s.key}, PayloadRelease, statement)
}

// KeyID names a public key: the first 16 bytes of its SHA-256, in hex.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:16])
}

// sealDSSE signs a payload. DSSE: https://github.com/secure-systems-lab/dsse
func sealDSSE(s dsse.Signer, payloadType string, payload []byte) ([]byte, error) {
	signer, err := dsse.NewEnvelopeSigner(s)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	env, err := signer.SignPayload(context.Background(), payloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return json.Marshal(env)
}

// maxSignatures bounds the signatures of an envelope that are looked at.
const maxSignatures = 16

// parseDSSE decodes an envelope of at most limit bytes and of the payload type wanted. Nothing in it is verified.
func parseDSSE(data []byte, payloadType string, limit int) (*dsse.Envelope, error) {
	if len(data) > limit {
		return nil, fmt.Errorf("the envelope is %d bytes long, most %d", len(data), limit)
	}
	var env dsse.Envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return nil, fmt.Errorf("decode the envelope: %w", err)
	}
	if env.PayloadType != payloadType {
		return nil, fmt.Errorf("the envelope holds %.100q, want %q", env.PayloadType, payloadType)
	}
	if len(env.Signatures) == 0 || len(env.Signatures) > maxSignatures {
		return nil, fmt.Errorf("the envelope has %d signatures, 1 to %d are accepted", len(env.Signatures), maxSignatures)
	}
	return &env, nil
}

// openDSSE verifies that v signed the envelope and returns the payload.
func openDSSE(env *dsse.Envelope, v dsse.Verifier) ([]byte, error) {
	verifier, err := dsse.NewEnvelopeVerifier(v)
	if err != nil {
		return nil, err
	}
	_, payload, err := verifier.VerifyAndDecode(context.Background(), env)
	if err != nil {
		return nil, errSignature
	}
	return payload, nil
}

// edKey is an ed25519 key as package dsse wants it. A verifier needs no private part.
type edKey struct {
	pub  ed25519.PublicKey
	priv ed25519.PrivateKey
}

// Sign signs data.
func (k edKey) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(k.priv, data), nil
}

// Verify checks a signature.
func (k edKey) Verify(_ context.Context, data, sig []byte) error {
	if len(k.pub) != ed25519.PublicKeySize || !ed25519.Verify(k.pub, data, sig) {
		return errSignature
	}
	return nil
}

// KeyID names the key.
func (k edKey) KeyID() (string, error) { return KeyID(k.pub), nil }

// Public is the public key.
func (k edKey) Public() crypto.PublicKey { return k.pub }

// caKey is the fleet CA's key as package dsse wants it: ECDSA over the SHA-256 of the data.
type caKey struct {
	id   string
	pub  *ecdsa.PublicKey
	priv *ecdsa.PrivateKey
}

// Sign signs data.
func (k caKey) Sign(_ context.Context, data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	return ecdsa.SignASN1(rand.Reader, k.priv, sum[:])
}

// Verify checks a signature.
func (k caKey) Verify(_ context.Context, data, sig []byte) error {
	sum := sha256.Sum256(data)
	if !ecdsa.VerifyASN1(k.pub, sum[:], sig) {
		return errSignature
	}
	return nil
}

// KeyID is the CA's fingerprint.
func (k caKey) KeyID() (string, error) { return k.id, nil }

// Public is the public key.
func (k caKey) Public() crypto.PublicKey { return k.pub }
