package identity

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/murmuration/murmuration/internal/durable"
)

// maxSecretFile bounds the secret files read, in bytes.
const maxSecretFile = 1 << 20

// readPrivate reads a secret file and refuses one that others on the machine may read.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s holds a secret but has mode %v: run `chmod 600 %s`", path, mode, path)
	}
	if info.Size() > maxSecretFile {
		return nil, fmt.Errorf("%s is %d bytes long: not a file of ours", path, info.Size())
	}
	return os.ReadFile(path)
}

// writePrivate writes a file of mode 0600 durably, making its folder (0700) if needed.
func writePrivate(path string, data []byte) error {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return durable.WriteFile(root, name, data, 0o600)
}
