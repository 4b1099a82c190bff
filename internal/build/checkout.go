package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

const (
	// maxCheckoutFiles is how many entries a commit may hold, maxCheckoutDepth how deep its folders may nest.
	maxCheckoutFiles = 1 << 20
	maxCheckoutDepth = 128
	// maxLinkTarget is PATH_MAX on Linux.
	maxLinkTarget = 4096
)

// lfsPointer is how a Git LFS pointer file starts (git-lfs specification, "The Pointer").
var lfsPointer = []byte("version https://git-lfs.github.com/spec/v1\n")

// Checkout writes the tree of a commit below dir, which must exist and be empty: plain files with their
// executable bit, folders, and symbolic links as they are. No link is ever followed while writing, no filter or
// line-end conversion is applied, and every file gets the commit's time. At most maxBytes of file content are
// written (0: no limit). Submodules and Git LFS pointers are refused with [ErrUnsupported].
func (r *Repo) Checkout(ctx context.Context, commit, dir string, maxBytes int64) error {
	c, err := r.commit(commit)
	if err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	tree, err := c.Tree()
	if err != nil {
		return fmt.Errorf("check out %s: read its tree: %w", commit, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("check out %s: %w", commit, err)
	}
	defer root.Close()
	w := &treeWriter{ctx: ctx, repo: r, when: c.Committer.When, left: maxBytes, bounded: maxBytes > 0}
	if err := w.tree(root, tree, ""); err != nil {
		return fmt.Errorf("check out %s: %w", commit, err)
	}
	return nil
}

type treeWriter struct {
	ctx     context.Context
	repo    *Repo
	when    time.Time
	files   int
	left    int64
	bounded bool
}

func (w *treeWriter) tree(root *os.Root, tree *object.Tree, at string) error {
	if strings.Count(at, "/") > maxCheckoutDepth {
		return fmt.Errorf("%s: folders nest deeper than %d", at, maxCheckoutDepth)
	}
	for _, e := range tree.Entries {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		if w.files++; w.files > maxCheckoutFiles {
			return fmt.Errorf("the commit holds more than %d files", maxCheckoutFiles)
		}
		name := path.Join(at, e.Name)
		if err := checkName(e.Name); err != nil {
			return fmt.Errorf("%.200q: %w", name, err)
		}
		if err := w.entry(root, e, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// checkName refuses what git itself would refuse to check out (verify_path in git's read-cache.c).
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.EqualFold(name, ".git") || strings.ContainsAny(name, "/\x00") {
		return errors.New("this name can't be checked out")
	}
	return nil
}

// entry writes one entry. Everything is created anew, never opened, so a repeated name is an error and a link
// in the place of a folder is never followed.
func (w *treeWriter) entry(root *os.Root, e object.TreeEntry, name string) error {
	switch e.Mode {
	case filemode.Dir:
		return w.folder(root, e, name)
	case filemode.Regular, filemode.Deprecated:
		return w.file(root, e, 0o644)
	case filemode.Executable:
		return w.file(root, e, 0o755)
	case filemode.Symlink:
		return w.link(root, e)
	case filemode.Submodule:
		return fmt.Errorf("git submodules are %w: vendor the code, or fetch it in the build command", ErrUnsupported)
	}
	return fmt.Errorf("mode %s is %w", e.Mode, ErrUnsupported)
}

func (w *treeWriter) folder(root *os.Root, e object.TreeEntry, name string) error {
	tree, err := object.GetTree(w.repo.git.Storer, e.Hash)
	if err != nil {
		return err
	}
	if err := root.Mkdir(e.Name, 0o755); err != nil {
		return err
	}
	// The umask may have taken bits away; modes are part of what is shipped.
	if err := root.Chmod(e.Name, 0o755); err != nil {
		return err
	}
	sub, err := root.OpenRoot(e.Name)
	if err != nil {
		return err
	}
	defer sub.Close()
	return w.tree(sub, tree, name)
}

func (w *treeWriter) file(root *os.Root, e object.TreeEntry, perm os.FileMode) (err error) {
	blob, err := object.GetBlob(w.repo.git.Storer, e.Hash)
	if err != nil {
		return err
	}
	if err := w.take(blob.Size); err != nil {
		return err
	}
	rd, err := blob.Reader()
	if err != nil {
		return err
	}
	defer rd.Close()
	f, err := root.OpenFile(e.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), root.Chtimes(e.Name, w.when, w.when)) }()
	head := make([]byte, len(lfsPointer))
	n, err := io.ReadFull(rd, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	if blob.Size <= 1024 && bytes.Equal(head[:n], lfsPointer) {
		return fmt.Errorf("files of Git LFS are %w: this file is only a pointer to its content", ErrUnsupported)
	}
	if _, err := f.Write(head[:n]); err != nil {
		return err
	}
	if _, err := io.Copy(f, rd); err != nil {
		return err
	}
	return f.Chmod(perm)
}

func (w *treeWriter) link(root *os.Root, e object.TreeEntry) error {
	blob, err := object.GetBlob(w.repo.git.Storer, e.Hash)
	if err != nil {
		return err
	}
	if blob.Size == 0 || blob.Size >= maxLinkTarget {
		return fmt.Errorf("a link's target of %d bytes is %w", blob.Size, ErrUnsupported)
	}
	rd, err := blob.Reader()
	if err != nil {
		return err
	}
	defer rd.Close()
	target, err := io.ReadAll(io.LimitReader(rd, maxLinkTarget))
	if err != nil {
		return err
	}
	return root.Symlink(string(target), e.Name)
}

func (w *treeWriter) take(n int64) error {
	if w.left -= n; w.bounded && w.left < 0 {
		return fmt.Errorf("the checkout alone is larger than build.max_output: %w", ErrTooLarge)
	}
	return nil
}
