package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/murmuration/murmuration/internal/wire"
)

// PasswordCost is the cost of one argon2id hash (RFC 9106). The zero value means 32 MiB, 3 passes, 1 thread.
type PasswordCost struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// Bounds of what a stored hash may ask for, so that a changed record cannot exhaust the server.
const (
	maxMemoryKiB = 256 << 10
	maxPasses    = 16
	maxThreads   = 8
	// hashesAtOnce bounds the hashes computed at the same time, and so their memory.
	hashesAtOnce = 3
)

// Length of a password, in bytes.
const (
	MinPassword = 10
	MaxPassword = 256
)

const (
	saltLen = 16
	keyLen  = 32
)

// errHash is returned for a stored hash that cannot be read.
var errHash = errors.New("the stored password hash cannot be read")

// hasher makes and checks argon2id hashes, few at a time.
type hasher struct {
	cost  PasswordCost
	slots chan struct{}
	// dummy is checked for users who do not exist, so that an answer takes as long as for those who do.
	dummy string
}

func newHasher(cost PasswordCost) *hasher {
	if cost == (PasswordCost{}) {
		cost = PasswordCost{MemoryKiB: 32 << 10, Passes: 3, Threads: 1}
	}
	salt, key := make([]byte, saltLen), make([]byte, keyLen)
	return &hasher{cost: cost, slots: make(chan struct{}, hashesAtOnce), dummy: phc(cost, salt, key)}
}

// hash returns the password's hash in PHC form.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if len(password) < MinPassword || len(password) > MaxPassword {
		return "", wire.Invalid("a password has %d to %d bytes", MinPassword, MaxPassword)
	}
	salt := make([]byte, saltLen)
	rand.Read(salt) // never fails, see crypto/rand
	key, err := h.derive(ctx, h.cost, password, salt, keyLen)
	if err != nil {
		return "", err
	}
	return phc(h.cost, salt, key), nil
}

// check reports whether the password fits the stored hash.
func (h *hasher) check(ctx context.Context, stored, password string) (bool, error) {
	if len(password) > MaxPassword {
		return false, nil
	}
	cost, salt, want, err := parsePHC(stored)
	if err != nil {
		return false, err
	}
	got, err := h.derive(ctx, cost, password, salt, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

func (h *hasher) derive(ctx context.Context, cost PasswordCost, password string, salt []byte, n uint32) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return argon2.IDKey([]byte(password), salt, cost.Passes, cost.MemoryKiB, cost.Threads, n), nil
}

// phc renders the PHC string format: $argon2id$v=19$m=..,t=..,p=..$salt$key.
func phc(cost PasswordCost, salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		cost.MemoryKiB, cost.Passes, cost.Threads, b64.EncodeToString(salt), b64.EncodeToString(key))
}

func parsePHC(s string) (cost PasswordCost, salt, key []byte, err error) {
	parts := strings.Split(s, "$")
	if len(s) > 512 || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return cost, nil, nil, errHash
	}
	var version int
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return cost, nil, nil, errHash
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &cost.MemoryKiB, &cost.Passes, &cost.Threads); err != nil {
		return cost, nil, nil, errHash
	}
	if cost.Passes < 1 || cost.Threads < 1 || cost.MemoryKiB > maxMemoryKiB || cost.Passes > maxPasses || cost.Threads > maxThreads {
		return cost, nil, nil, errHash
	}
	salt, saltErr := base64.RawStdEncoding.DecodeString(parts[4])
	key, keyErr := base64.RawStdEncoding.DecodeString(parts[5])
	if saltErr != nil || keyErr != nil || len(salt) < 8 || len(key) < 16 {
		return cost, nil, nil, errHash
	}
	return cost, salt, key, nil
}
