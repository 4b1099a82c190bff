package release

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrID is wrapped by every complaint about a malformed id.
var ErrID = errors.New("not a UUIDv7 in lower case")

// CheckID reports whether id is a UUIDv7 in its canonical text form (RFC 9562, section 5.7).
func CheckID(id string) error {
	_, err := idBytes(id)
	return err
}

// IDTime returns the creation time an id carries, in milliseconds UTC; zero for a malformed id.
func IDTime(id string) time.Time {
	b, err := idBytes(id)
	if err != nil {
		return time.Time{}
	}
	ms := int64(b[0])<<40 | int64(b[1])<<32 | int64(b[2])<<24 | int64(b[3])<<16 | int64(b[4])<<8 | int64(b[5])
	return time.UnixMilli(ms).UTC()
}

func idBytes(id string) ([]byte, error) {
	fail := fmt.Errorf("id %.60q: %w", id, ErrID)
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' || strings.ToLower(id) != id {
		return nil, fail
	}
	b, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(b) != 16 || b[6]>>4 != 7 || b[8]>>6 != 2 {
		return nil, fail
	}
	return b, nil
}

// CheckService reports whether name can name a service: [a-z][a-z0-9-]{0,62}.
func CheckService(name string) error {
	ok := len(name) >= 1 && len(name) <= 63 && name[0] >= 'a' && name[0] <= 'z'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
	}
	if !ok {
		return fmt.Errorf("%.80q is not a service name: a lower-case letter, then at most 62 of a-z, 0-9 and -", name)
	}
	return nil
}
