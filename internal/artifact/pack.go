package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/murmuration/murmuration/release"
)

// The errors of [Pack].
var (
	// ErrNotPackable is wrapped when the folder holds something no release may hold.
	ErrNotPackable = errors.New("cannot be part of a release")
	// ErrTooLarge is wrapped when the folder exceeds [PackOptions].
	ErrTooLarge = errors.New("folder is too large for a release")
)

// PackOptions bound a pack. The zero value is useful.
type PackOptions struct {
	// MaxFiles bounds the entries, default [release.MaxFiles].
	MaxFiles int
	// MaxBytes bounds the content of all files together, default [release.MaxArtifact] less what headers need.
	MaxBytes int64
	// Workers is how many chunks are compressed at once, default GOMAXPROCS. It does not change the result.
	Workers int
}

func (o PackOptions) withDefaults() PackOptions {
	if o.MaxFiles <= 0 || o.MaxFiles > release.MaxFiles {
		o.MaxFiles = release.MaxFiles
	}
	if o.MaxBytes <= 0 || o.MaxBytes > release.MaxArtifact/2 {
		o.MaxBytes = release.MaxArtifact / 2
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o
}

// Pack writes the folder src to w as an artifact and returns what its manifest says of it, and its index.
// Equal folders give equal bytes. Permission bits are kept as they are, except that set-id and sticky bits of
// folders are dropped; times, owners, extended attributes and hard links are not kept.
//
// The error names the path: it wraps [ErrNotPackable] for a device, socket or pipe, a set-id file, a symlink
// that is absolute or leaves src, and a name [release.CheckPath] refuses; [ErrTooLarge] beyond the limits.
// src must not change meanwhile; a file that does is an error. On any error what w got is worthless.
func Pack(ctx context.Context, src string, w io.Writer, opts PackOptions) (release.Artifact, release.Index, error) {
	a, idx, err := pack(ctx, src, w, opts.withDefaults())
	if err != nil {
		return release.Artifact{}, release.Index{}, fmt.Errorf("pack %s: %w", src, err)
	}
	return a, idx, nil
}

func pack(ctx context.Context, src string, w io.Writer, opts PackOptions) (release.Artifact, release.Index, error) {
	root, err := os.OpenRoot(src)
	if err != nil {
		return release.Artifact{}, release.Index{}, err
	}
	defer root.Close()
	files, err := scan(ctx, root, opts)
	if err != nil {
		return release.Artifact{}, release.Index{}, err
	}
	c := newCompressor(ctx, w, opts.Workers)
	if err := writeTar(ctx, root, files, c); err != nil {
		c.cancel(err)
		_ = c.close() // can only fail because of err
		return release.Artifact{}, release.Index{}, err
	}
	if err := c.close(); err != nil {
		return release.Artifact{}, release.Index{}, err
	}
	idx := release.Index{Files: files, Chunks: c.chunks}
	a, err := c.finish(idx)
	return a, idx, err
}

// scan lists everything below root, sorted, with all but the digests filled in.
func scan(ctx context.Context, root *os.Root, opts PackOptions) ([]release.File, error) {
	var files []release.File
	var total int64
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f, err := describe(root, name, info)
		if err != nil {
			return err
		}
		files = append(files, f)
		if total += f.Size; len(files) > opts.MaxFiles || total > opts.MaxBytes {
			return fmt.Errorf("%w: more than %d files or %d bytes", ErrTooLarge, opts.MaxFiles, opts.MaxBytes)
		}
		return nil
	})
	slices.SortFunc(files, func(a, b release.File) int { return strings.Compare(a.Path, b.Path) })
	return files, err
}

// describe turns what Lstat said into an entry, or refuses it.
func describe(root *os.Root, name string, info fs.FileInfo) (release.File, error) {
	refuse := func(why string) (release.File, error) {
		return release.File{}, fmt.Errorf("%q %w: %s", name, ErrNotPackable, why)
	}
	if err := release.CheckPath(name); err != nil {
		return refuse(err.Error())
	}
	f := release.File{Path: name, Mode: uint32(info.Mode().Perm())}
	switch info.Mode().Type() {
	case 0:
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			return refuse("it is set-user-id or set-group-id; run chmod ug-s on it")
		}
		f.Type, f.Size = release.Regular, info.Size()
	case fs.ModeDir:
		f.Type = release.Directory
	case fs.ModeSymlink:
		target, err := root.Readlink(name)
		if err != nil {
			return release.File{}, err
		}
		if err := release.CheckLink(name, target); err != nil {
			return refuse(err.Error())
		}
		f.Type, f.Target, f.Mode = release.Symlink, target, 0o777
	default:
		return refuse("it is a device, a socket or a pipe")
	}
	return f, nil
}

// writeTar writes the tar stream to w and fills in the digests of files.
func writeTar(ctx context.Context, root *os.Root, files []release.File, w io.Writer) error {
	var header []byte
	var pad [block]byte
	sum := sha256.New()
	buf := make([]byte, MaxChunk)
	for i := range files {
		f := &files[i]
		header = appendHeader(header[:0], *f)
		if _, err := w.Write(header); err != nil {
			return err
		}
		if f.Type != release.Regular {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		digest, err := copyFile(root, *f, w, sum, buf)
		if err != nil {
			return err
		}
		f.Digest = digest
		if _, err := w.Write(pad[:padding(f.Size)]); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, trailer))
	return err
}

// copyFile copies exactly f.Size bytes of the file to w and returns their digest.
func copyFile(root *os.Root, f release.File, w io.Writer, sum hash.Hash, buf []byte) (release.Digest, error) {
	file, err := root.Open(f.Path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() != f.Size {
		return "", fmt.Errorf("%q changed while it was packed", f.Path)
	}
	sum.Reset()
	// One byte more than the file had: a file that grew meanwhile is found here.
	from := io.LimitReader(file, f.Size+1)
	var n int64
	for {
		m, err := from.Read(buf)
		if n += int64(m); n > f.Size {
			break
		}
		sum.Write(buf[:m])
		if _, err := w.Write(buf[:m]); err != nil {
			return "", err
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", fmt.Errorf("read %q: %w", f.Path, err)
		}
	}
	if n != f.Size {
		return "", fmt.Errorf("%q changed while it was packed", f.Path)
	}
	return release.DigestSum([sha256.Size]byte(sum.Sum(nil))), nil
}
