package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/murmuration/murmuration/release"
)

// DriftOptions tune a search for drift. The zero value is the cheap search: no file is opened.
type DriftOptions struct {
	// Deep compares the content of every file by digest, not only type, size, mode and link target.
	Deep bool
	// Limit ends the search after so many differences; 0 means no limit.
	Limit int
}

// Drift compares the tree below root, as [Unpack] made it, with its index and describes every difference in one
// line that starts with the quoted path: changed, missing and extra entries, sorted by path. None means no
// drift. An unreadable entry is a difference; only a root that cannot be read at all and the end of ctx are
// errors. It reads at most one file at a time.
func Drift(ctx context.Context, root *os.Root, idx release.Index, opts DriftOptions) ([]string, error) {
	d := drift{opts: opts, want: make(map[string]release.File, len(idx.Files))}
	for _, f := range idx.Files {
		d.want[f.Path] = f
	}
	err := fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if ctxErr := ctx.Err(); ctxErr != nil {
			return ctxErr
		}
		if name == "." {
			return err
		}
		return d.visit(root, name, entry, err)
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("look for drift in %s: %w", root.Name(), err)
	}
	if err == nil {
		for name := range d.want {
			d.found = append(d.found, fmt.Sprintf("%q: missing", name))
		}
	}
	slices.Sort(d.found)
	if opts.Limit > 0 && len(d.found) > opts.Limit {
		d.found = d.found[:opts.Limit]
	}
	return d.found, nil
}

var errEnough = errors.New("enough differences found")

type drift struct {
	opts  DriftOptions
	want  map[string]release.File // what was not met yet
	found []string
}

func (d *drift) visit(root *os.Root, name string, entry fs.DirEntry, err error) error {
	want, known := d.want[name]
	delete(d.want, name)
	why := ""
	switch {
	case err != nil:
		why = err.Error()
	case !known:
		why = "not part of the release"
	default:
		why = d.compare(root, want, entry)
	}
	if why == "" {
		return nil
	}
	d.found = append(d.found, fmt.Sprintf("%q: %s", name, why))
	if d.opts.Limit > 0 && len(d.found) >= d.opts.Limit {
		return errEnough
	}
	if entry != nil && entry.IsDir() && (!known || err != nil) {
		return fs.SkipDir
	}
	return nil
}

// compare says how an entry differs, "" if it does not.
func (d *drift) compare(root *os.Root, want release.File, entry fs.DirEntry) string {
	info, err := entry.Info()
	if err != nil {
		return err.Error()
	}
	if got := typeOf(info.Mode()); got != want.Type {
		return fmt.Sprintf("is a %s, want a %s", got, want.Type)
	}
	if want.Type == release.Symlink {
		if target, err := root.Readlink(want.Path); err != nil || target != want.Target {
			return fmt.Sprintf("points to %q, want %q", target, want.Target)
		}
		return ""
	}
	if got := uint32(info.Mode().Perm()); got != want.Mode {
		return fmt.Sprintf("mode %#o, want %#o", got, want.Mode)
	}
	if want.Type == release.Directory {
		return ""
	}
	if info.Size() != want.Size {
		return fmt.Sprintf("size %d, want %d", info.Size(), want.Size)
	}
	if d.opts.Deep {
		return compareContent(root, want)
	}
	return ""
}

func typeOf(mode fs.FileMode) release.FileType {
	switch mode.Type() {
	case 0:
		return release.Regular
	case fs.ModeDir:
		return release.Directory
	case fs.ModeSymlink:
		return release.Symlink
	}
	return "device, socket or pipe"
}

func compareContent(root *os.Root, want release.File) string {
	f, err := root.Open(want.Path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, want.Size+1)); err != nil {
		return err.Error()
	}
	if release.DigestSum([sha256.Size]byte(sum.Sum(nil))) != want.Digest {
		return "content changed"
	}
	return ""
}
