package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

func openRoot(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// names lists a folder and fails if a temporary file is left in it.
func names(t *testing.T, root *os.Root, dir string) []string {
	t.Helper()
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TempPrefix) {
			t.Errorf("temporary file %s is left", e.Name())
		}
		all = append(all, e.Name())
	}
	return all
}

func TestWriteFileReplaces(t *testing.T) {
	root := openRoot(t)
	for _, content := range []string{"one", "two, longer", ""} {
		if err := WriteFile(root, "f", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := root.ReadFile("f"); err != nil || string(got) != content {
			t.Errorf("got %q, %v; want %q", got, err, content)
		}
	}
	if info, err := root.Stat("f"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	names(t, root, ".")
}

func TestWriteKeepsOldContentOnFailure(t *testing.T) {
	root := openRoot(t)
	if err := WriteFile(root, "f", []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("the sender died")
	half := io.MultiReader(strings.NewReader("new but ha"), iotest.ErrReader(boom))
	if err := WriteFrom(root, "f", half, 0o600); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	if got, _ := root.ReadFile("f"); string(got) != "old" {
		t.Errorf("after a failed write f holds %q", got)
	}
	if got := names(t, root, "."); len(got) != 1 {
		t.Errorf("folder holds %v", got)
	}
	if err := WriteFile(root, "missing/f", nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if err := WriteFile(root, "../f", nil, 0o600); err == nil {
		t.Error("a name that leaves the folder was written")
	}
}

func TestNoWriteThroughALinkOutside(t *testing.T) {
	root, outside := openRoot(t), t.TempDir()
	if err := root.Symlink(outside, "out"); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(root, "out/f", []byte("x"), 0o600); err == nil {
		t.Error("written through a link that leaves the folder")
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside holds %v", left)
	}
}

// TestReplaceSymlinkIsNeverMissing follows the link all the time while it is switched.
func TestReplaceSymlinkIsNeverMissing(t *testing.T) {
	root := openRoot(t)
	if err := ReplaceSymlink(root, "current", "a"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got, err := root.Readlink("current"); err != nil || got != "a" && got != "b" {
				t.Errorf("current is %q, %v", got, err)
				return
			}
		}
	})
	for i := range 50 {
		if err := ReplaceSymlink(root, "current", string("ab"[i%2])); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reader.Wait()
	names(t, root, ".")
}

func TestRenameAndRemove(t *testing.T) {
	root := openRoot(t)
	if err := errors.Join(root.MkdirAll("in/tree", 0o755), root.Mkdir("out", 0o755), WriteFile(root, "in/tree/f", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Rename(root, "in/tree", "out/tree"); err != nil {
		t.Fatal(err)
	}
	if got, err := root.ReadFile("out/tree/f"); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	for range 2 { // what does not exist is no error
		if err := Remove(root, "out/tree"); err != nil {
			t.Error(err)
		}
	}
	if got := names(t, root, "out"); len(got) > 0 {
		t.Errorf("out holds %v", got)
	}
	if err := Rename(root, "nothing", "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rename of nothing: %v", err)
	}
}

func TestSyncTree(t *testing.T) {
	root := openRoot(t)
	if err := errors.Join(root.MkdirAll("a/b", 0o755), root.WriteFile("a/b/f", []byte("x"), 0o600), root.Symlink("nowhere", "a/link")); err != nil {
		t.Fatal(err)
	}
	if err := SyncTree(root); err != nil {
		t.Error(err)
	}
	if err := syncWalk(root); err != nil {
		t.Errorf("fallback: %v", err)
	}
	if err := SyncDir(root, "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sync of nothing: %v", err)
	}
}

func TestRemoveTemp(t *testing.T) {
	root := openRoot(t)
	if err := errors.Join(root.WriteFile(TempPrefix+"CRASHED", nil, 0o600), root.WriteFile("keep", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveTemp(root, "."); err != nil {
		t.Fatal(err)
	}
	if got := names(t, root, "."); len(got) != 1 || got[0] != "keep" {
		t.Errorf("folder holds %v", got)
	}
}

func TestFreeSpace(t *testing.T) {
	free, total, err := FreeSpace(t.TempDir())
	if err != nil || free < 0 || total <= 0 || free > total {
		t.Errorf("free %d of %d, %v", free, total, err)
	}
	if _, _, err := FreeSpace(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing path: %v", err)
	}
}
