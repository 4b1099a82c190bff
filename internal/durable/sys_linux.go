package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// syncFS is syncfs(2); see there for why it covers everything written before.
func syncFS(dir *os.File) error {
	raw, err := dir.SyscallConn()
	if err != nil {
		return err
	}
	var sys error
	if err := raw.Control(func(fd uintptr) { sys = unix.Syncfs(int(fd)) }); err != nil {
		return err
	}
	if errors.Is(sys, unix.ENOSYS) {
		return errors.ErrUnsupported
	}
	return os.NewSyscallError("syncfs", sys)
}

// StartWriteback asks the kernel to begin writing f's dirty pages to disk, without waiting: a later sync then
// has less left to do. It promises nothing, and so returns nothing.
func StartWriteback(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
}

// FreeSpace returns how many bytes an unprivileged process may still write on the file system that holds
// path, and that file system's size.
func FreeSpace(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}
