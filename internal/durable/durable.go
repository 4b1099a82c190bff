// Package durable writes files so that a crash, at any instant, leaves the old content or the new, never
// neither and never a mix.
//
// # The contract
//
// When a function here returns nil, what it did survives power loss on a file system that honours fsync(2).
// When it returns an error, or the machine dies before it returns, the name holds its old content or its new
// one, whole. A temporary file may be left behind after a crash: its name starts with [TempPrefix], nothing
// reads it, and [RemoveTemp] clears it at the next start.
//
// How: content goes to a temporary file in the same folder, is synced, is moved over the name by rename(2)
// (atomic in POSIX), and the folder is synced so that the move itself is on disk. Everything goes through an
// os.Root, so no name, even one that meets a symlink on its way, reaches outside the folder handed in.
//
// All functions are safe for concurrent use. Two writers of one name leave the content of either, whole.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// TempPrefix starts the name of every temporary file that this package makes.
const TempPrefix = ".tmp-"

// WriteFile replaces the file name in root by data with the permissions perm (before umask). The folder that
// holds it must exist.
func WriteFile(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	err := write(root, name, perm, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// WriteFrom is [WriteFile] for content that is streamed. When reading fails, name keeps its old content.
func WriteFrom(root *os.Root, name string, content io.Reader, perm fs.FileMode) error {
	err := write(root, name, perm, func(f *os.File) error {
		_, err := io.Copy(f, content)
		return err
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func write(root *os.Root, name string, perm fs.FileMode, fill func(*os.File) error) (err error) {
	temp := tempName(name)
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(root.Remove(temp)))
		}
	}()
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(temp, name); err != nil {
		return err
	}
	return syncDir(root, path.Dir(name))
}

// ReplaceSymlink makes name a symlink to target, in place of whatever file or symlink name was. Whoever
// follows name meanwhile sees the old target or the new one; at no time is name missing.
func ReplaceSymlink(root *os.Root, name, target string) error {
	temp := tempName(name)
	if err := root.Symlink(target, temp); err != nil {
		return fmt.Errorf("link %s to %s: %w", name, target, err)
	}
	if err := root.Rename(temp, name); err != nil {
		return fmt.Errorf("link %s to %s: %w", name, target, errors.Join(err, ignoreMissing(root.Remove(temp))))
	}
	return SyncDir(root, path.Dir(name))
}

// Rename moves a file or folder within root, replacing a file of the new name, and makes the move durable. The
// content moved must have been synced before.
func Rename(root *os.Root, from, to string) error {
	if err := root.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	if err := SyncDir(root, path.Dir(to)); err != nil {
		return err
	}
	if path.Dir(from) == path.Dir(to) {
		return nil
	}
	return SyncDir(root, path.Dir(from))
}

// Remove removes a file, a symlink or a whole folder within root and makes that durable. What does not exist
// is no error.
func Remove(root *os.Root, name string) error {
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return SyncDir(root, path.Dir(name))
}

// SyncDir makes durable which names the folder holds: files created in it, renamed into it, removed from it.
func SyncDir(root *os.Root, name string) error {
	if err := syncDir(root, name); err != nil {
		return fmt.Errorf("sync folder %s: %w", name, err)
	}
	return nil
}

func syncDir(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// SyncTree makes everything below root durable: all content, names and permissions. On Linux it is one
// syncfs(2), which writes back the whole file system that holds root and so costs the same for one file as for
// a million; elsewhere, or where the kernel refuses it, every file and folder is synced by itself. An error of
// an earlier write that the kernel only finds out now is reported (Linux 5.8 and later).
func SyncTree(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("sync tree %s: %w", root.Name(), err)
	}
	defer dir.Close()
	err = syncFS(dir)
	if errors.Is(err, errors.ErrUnsupported) {
		err = syncWalk(root)
	}
	if err != nil {
		return fmt.Errorf("sync tree %s: %w", root.Name(), err)
	}
	return nil
}

// syncWalk syncs every regular file and folder below root.
func syncWalk(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// RemoveTemp removes the temporary files that a crash left in one folder of root. Call it at start, before
// anything writes there.
func RemoveTemp(root *os.Root, dir string) error {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TempPrefix) && !e.IsDir() {
			err = errors.Join(err, root.Remove(path.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	return nil
}

func tempName(name string) string {
	return path.Join(path.Dir(name), TempPrefix+rand.Text())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
