package release

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrDigest is wrapped by every complaint about a malformed digest.
var ErrDigest = errors.New("not a digest of the form sha256:<64 lower-case hex digits>")

const digestPrefix = "sha256:"

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest { return DigestSum(sha256.Sum256(b)) }

// DigestSum writes a SHA-256 sum as a Digest.
func DigestSum(sum [sha256.Size]byte) Digest {
	var text [len(digestPrefix) + 2*sha256.Size]byte
	copy(text[:], digestPrefix)
	hex.Encode(text[len(digestPrefix):], sum[:])
	return Digest(text[:])
}

// ParseDigest checks that s is a digest in its one accepted form; the error wraps [ErrDigest].
func ParseDigest(s string) (Digest, error) {
	d := Digest(s)
	if _, err := d.Sum(); err != nil {
		return "", err
	}
	return d, nil
}

// Hex returns the 64 hexadecimal digits without the algorithm's name, or "" when d is malformed. It is safe
// as a file name.
func (d Digest) Hex() string {
	if _, err := d.Sum(); err != nil {
		return ""
	}
	return string(d[len(digestPrefix):])
}

// Sum returns the 32 bytes of the digest; the error wraps [ErrDigest].
func (d Digest) Sum() (sum [sha256.Size]byte, err error) {
	text, ok := strings.CutPrefix(string(d), digestPrefix)
	if !ok || len(text) != 2*sha256.Size {
		return sum, fmt.Errorf("%.80q: %w", string(d), ErrDigest)
	}
	for i := range sum {
		high, low := nibble(text[2*i]), nibble(text[2*i+1])
		if high|low > 0xf {
			return sum, fmt.Errorf("%.80q: %w", string(d), ErrDigest)
		}
		sum[i] = high<<4 | low
	}
	return sum, nil
}

// nibble returns the value of a lower-case hexadecimal digit, 0xff for anything else. An index holds tens of
// thousands of digests, and encoding/hex takes upper case too.
func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
