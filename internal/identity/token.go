package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"

	"github.com/murmuration/murmuration/internal/wire"
)

// The prefixes of tokens: they say what a leaked string is, and let scanners find it.
const (
	prefixJoin    = "mj1" // mj1.<id>.<secret>.<CA fingerprint>
	prefixAPI     = "mt1" // mt1.<id>.<secret>
	prefixSession = "ms1" // ms1.<id>.<secret>
)

// maxToken bounds a token, in bytes.
const maxToken = 256

// JoinToken is a parsed join token. The fingerprint lets the first connection of a new host be verified: it
// trusts nobody on first use.
type JoinToken struct {
	ID     string
	Secret string
	// CA is the SHA-256 of the fleet CA's certificate, lower-case hex.
	CA string
}

// String is the token as people pass it: it contains the secret.
func (t JoinToken) String() string {
	return strings.Join([]string{prefixJoin, t.ID, t.Secret, t.CA}, ".")
}

// ParseJoinToken reads "mj1.<id>.<secret>.<CA fingerprint>". Errors never contain the token.
func ParseJoinToken(s string) (JoinToken, error) {
	parts, ok := splitToken(s, prefixJoin, 4)
	if !ok || len(parts[3]) != hex.EncodedLen(sha256.Size) || !isHex(parts[3]) {
		return JoinToken{}, wire.Invalid("this is not a join token: one looks like mj1.<id>.<secret>.<fingerprint>; make one with `murmur join-token create`")
	}
	return JoinToken{ID: parts[1], Secret: parts[2], CA: parts[3]}, nil
}

// bearer is a parsed API or session token.
type bearer struct {
	prefix, id, secret string
}

func (b bearer) String() string { return b.prefix + "." + b.id + "." + b.secret }

// parseBearer reads an API or session token.
func parseBearer(s string) (bearer, bool) {
	for _, prefix := range []string{prefixAPI, prefixSession} {
		if parts, ok := splitToken(s, prefix, 3); ok {
			return bearer{prefix, parts[1], parts[2]}, true
		}
	}
	return bearer{}, false
}

// splitToken cuts a token at its dots and checks its alphabet: letters and digits only, no empty part.
func splitToken(s, prefix string, n int) ([]string, bool) {
	if len(s) > maxToken {
		return nil, false
	}
	parts := strings.Split(s, ".")
	if len(parts) != n || parts[0] != prefix {
		return nil, false
	}
	for _, part := range parts {
		if part == "" || strings.IndexFunc(part, notAlnum) >= 0 {
			return nil, false
		}
	}
	return parts, true
}

func notAlnum(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
}

func isHex(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) < 0
}

// newSecret is a random id and a secret of 130 bits each, in letters and digits.
func newSecret() (id, secret string) {
	return strings.ToLower(rand.Text()[:16]), rand.Text()
}

// hashSecret is what is stored of a secret. The secrets are random and long, so a plain hash is enough.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// secretFits compares a secret with a stored hash in constant time.
func secretFits(stored, secret string) bool {
	return subtle.ConstantTimeCompare([]byte(stored), []byte(hashSecret(secret))) == 1
}
