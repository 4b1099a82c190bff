//go:build !linux

package durable

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

func syncFS(*os.File) error { return errors.ErrUnsupported }

// StartWriteback does nothing here; on Linux it lets a later sync find less to do.
func StartWriteback(*os.File) {}

// FreeSpace returns how many bytes an unprivileged process may still write on the file system that holds
// path, and that file system's size.
func FreeSpace(path string) (free, total int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}
