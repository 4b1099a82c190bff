package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/release"
	"golang.org/x/sync/errgroup"
)

// writebackSize is the size from which a file's pages are sent to the disk while others are still unpacked, so
// that the sync at the end is short.
const writebackSize = 256 << 10

// UnpackOptions tune an unpack. The zero value is useful.
type UnpackOptions struct {
	// Workers is how many chunks are decoded and written at once. Default twice GOMAXPROCS: while one worker
	// waits for the file system another decodes.
	Workers int
	// Progress is told how many bytes of the tar stream are done, growing, up to [release.Artifact.RawSize]. It
	// is called by several goroutines, one at a time, and must be quick.
	Progress func(done int64)
}

// Unpack verifies the artifact in r and writes its files below dst, in one pass. A and idx must be as [ReadIndex]
// took and gave them. Chunks are decoded and written in parallel: the index says where every byte belongs, so
// no order is needed. Every byte is compared with the digests of idx before it is written; every archive
// header must be exactly what idx implies.
//
// Nothing that exists is replaced: a name that is taken is an error (fs.ErrExist). Modes are set exactly,
// whatever the umask. On an error dst is left half full, for the caller to remove; nothing is ever written
// outside dst. On success nothing is durable yet: call durable.SyncTree, then move the folder into place.
// An error wraps [ErrCorrupt] when the artifact is to blame.
func Unpack(ctx context.Context, r io.ReaderAt, a release.Artifact, idx release.Index, dst *os.Root, opts UnpackOptions) error {
	if err := CheckIndex(a, idx); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if opts.Workers <= 0 {
		opts.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	u := &unpacker{idx: idx, layout: newLayout(idx.Files), dst: dst, progress: opts.Progress, open: map[int]*openFile{}}
	defer u.closeOpen()
	if err := u.makeDirs(); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := u.run(ctx, r, opts.Workers); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := u.sealDirs(); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

type unpacker struct {
	idx      release.Index
	layout   layout
	dst      *os.Root
	next     atomic.Int64 // the next chunk to take
	mu       sync.Mutex   // guards what follows
	open     map[int]*openFile
	done     int64
	progress func(done int64)
}

// openFile is a file whose content comes in several chunks, perhaps out of order.
type openFile struct {
	once sync.Once
	err  error
	file *os.File
	left atomic.Int64 // bytes not yet written
}

func (u *unpacker) run(ctx context.Context, r io.ReaderAt, workers int) error {
	offsets, rawAt := Offsets(u.idx), make([]int64, len(u.idx.Chunks)+1)
	for i, c := range u.idx.Chunks {
		rawAt[i+1] = rawAt[i] + c.RawSize
	}
	group, ctx := errgroup.WithContext(ctx)
	for range min(workers, len(u.idx.Chunks)) {
		group.Go(func() error {
			dec, err := newFrameDecoder(r)
			if err != nil {
				return err
			}
			defer dec.close()
			w := &treeWriter{u: u}
			defer w.close()
			for {
				i := int(u.next.Add(1)) - 1
				if i >= len(u.idx.Chunks) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				raw, err := dec.chunk(i, u.idx.Chunks[i], offsets[i])
				if err != nil {
					return err
				}
				if err := u.layout.visit(rawAt[i], raw, w); err != nil {
					return err
				}
				u.report(int64(len(raw)))
			}
		})
	}
	return group.Wait()
}

func (u *unpacker) report(n int64) {
	if u.progress == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done += n
	u.progress(u.done)
}

// makeDirs makes every folder, writable by us whatever its mode will be.
func (u *unpacker) makeDirs() error {
	w := &treeWriter{u: u}
	defer w.close()
	for _, f := range u.idx.Files {
		if f.Type != release.Directory {
			continue
		}
		dir, err := w.parent(f.Path)
		if err != nil {
			return err
		}
		if err := dir.Mkdir(path.Base(f.Path), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// sealDirs gives every folder its mode, the deepest first, since a mode may shut the way to what is below.
func (u *unpacker) sealDirs() error {
	for i := len(u.idx.Files) - 1; i >= 0; i-- {
		if f := u.idx.Files[i]; f.Type == release.Directory && f.Mode != 0o700 {
			if err := u.dst.Chmod(f.Path, fs.FileMode(f.Mode)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeOpen closes the files that an error left open.
func (u *unpacker) closeOpen() {
	for _, o := range u.open {
		if o.file != nil {
			o.file.Close()
		}
	}
}

// treeWriter is one worker's way into the tree: a visitor that keeps the folder it wrote to last open.
type treeWriter struct {
	u    *unpacker
	name string
	dir  *os.Root
}

func (w *treeWriter) close() {
	if w.dir != nil {
		w.dir.Close()
	}
}

// parent returns the folder that holds name, valid until the next call.
func (w *treeWriter) parent(name string) (*os.Root, error) {
	dir := path.Dir(name)
	if dir == "." {
		return w.u.dst, nil
	}
	if w.dir != nil && w.name == dir {
		return w.dir, nil
	}
	w.close()
	w.dir = nil
	opened, err := w.u.dst.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	w.name, w.dir = dir, opened
	return opened, nil
}

func (w *treeWriter) create(f release.File) (*os.File, error) {
	dir, err := w.parent(f.Path)
	if err != nil {
		return nil, err
	}
	return dir.OpenFile(path.Base(f.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(f.Mode)|0o200)
}

func (w *treeWriter) entry(i int) error {
	f := w.u.idx.Files[i]
	switch f.Type {
	case release.Symlink:
		dir, err := w.parent(f.Path)
		if err != nil {
			return err
		}
		return dir.Symlink(f.Target, path.Base(f.Path))
	case release.Regular:
		file, err := w.create(f)
		if err != nil {
			return err
		}
		return finish(file, f)
	}
	return nil // folders were made before
}

func (w *treeWriter) content(i int, at int64, part []byte) error {
	f := w.u.idx.Files[i]
	if int64(len(part)) < f.Size {
		return w.share(i, f, at, part)
	}
	file, err := w.create(f)
	if err != nil {
		return err
	}
	if _, err := file.Write(part); err != nil {
		return errors.Join(err, file.Close())
	}
	return finish(file, f)
}

// share writes a part of a file that several chunks hold; whoever writes the last byte closes it.
func (w *treeWriter) share(i int, f release.File, at int64, part []byte) error {
	w.u.mu.Lock()
	o := w.u.open[i]
	if o == nil {
		o = new(openFile)
		o.left.Store(f.Size)
		w.u.open[i] = o
	}
	w.u.mu.Unlock()
	if o.once.Do(func() { o.file, o.err = w.create(f) }); o.err != nil {
		return o.err
	}
	if _, err := o.file.WriteAt(part, at); err != nil {
		return err
	}
	if o.left.Add(-int64(len(part))) > 0 {
		return nil
	}
	w.u.mu.Lock()
	delete(w.u.open, i)
	w.u.mu.Unlock()
	return finish(o.file, f)
}

// finish sets the exact mode of a file that is whole and closes it.
func finish(file *os.File, f release.File) error {
	if f.Size >= writebackSize {
		durable.StartWriteback(file)
	}
	return errors.Join(file.Chmod(fs.FileMode(f.Mode)), file.Close())
}
