package build

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/google/go-cmp/cmp"
)

// listing describes a folder: mode and content of every entry.
func listing(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			out[name] = info.Mode().String()
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			out[name] = "link " + target
			return err
		default:
			b, err := os.ReadFile(p)
			out[name] = info.Mode().String() + " " + string(b)
			return err
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// treeRepo commits one of everything.
func treeRepo(tb testing.TB) (*testRepo, string, map[string]string) {
	tb.Helper()
	r := newRepo(tb)
	r.write("README", "read me\n")
	r.write("bin/run", "#!/bin/sh\n")
	r.write("deep/er/größe.txt", "ümläut\r\n")
	r.write("empty", "")
	if err := os.Chmod(filepath.Join(r.dir, "bin/run"), 0o755); err != nil {
		tb.Fatal(err)
	}
	for link, target := range map[string]string{"inside": "deep/er", "outside": "/etc", "up": "../../.."} {
		if err := os.Symlink(target, filepath.Join(r.dir, link)); err != nil {
			tb.Fatal(err)
		}
	}
	return r, r.commit("tree"), map[string]string{
		"README": "-rw-r--r-- read me\n", "bin": "drwxr-xr-x", "bin/run": "-rwxr-xr-x #!/bin/sh\n", "deep": "drwxr-xr-x",
		"deep/er": "drwxr-xr-x", "deep/er/größe.txt": "-rw-r--r-- ümläut\r\n", "empty": "-rw-r--r-- ",
		"inside": "link deep/er", "outside": "link /etc", "up": "link ../../..",
	}
}

// TestCheckout checks the same commit out of every sort of repository.
func TestCheckout(t *testing.T) {
	r, commit, want := treeRepo(t)
	side := func(name string) string { return filepath.Join(filepath.Dir(r.dir), name) }
	sorts := map[string]func() string{
		"loose objects": func() string { return r.dir },
		"git folder":    func() string { return filepath.Join(r.dir, ".git") },
		"linked work tree": func() string {
			r.git("worktree", "add", "-q", "--detach", side("linked"))
			return side("linked")
		},
		"alternates": func() string {
			r.git("clone", "-q", "--bare", "--shared", r.dir, side("shared.git"))
			return side("shared.git")
		},
		"packed and bare": func() string {
			r.git("clone", "-q", "--bare", "--no-local", r.dir, side("packed.git"))
			return side("packed.git")
		},
		"shallow": func() string {
			r.git("clone", "-q", "--depth", "1", "file://"+r.dir, side("shallow"))
			return side("shallow")
		},
	}
	for name, path := range sorts {
		t.Run(name, func(t *testing.T) {
			repo, err := OpenRepo(path())
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := repo.Checkout(t.Context(), commit, dir, 0); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, listing(t, dir)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckoutOfAnnotatedTag(t *testing.T) {
	r, commit, want := treeRepo(t)
	r.git("tag", "-a", "-m", "one", "v1")
	repo, err := OpenRepo(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	tag, dir := r.git("rev-parse", "v1"), t.TempDir()
	if err := repo.Checkout(t.Context(), tag, dir, 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, listing(t, dir)); diff != "" || tag == commit {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if info, err := repo.Info(tag); err != nil || info.Commit != commit {
		t.Errorf("Info of a tag = %+v, %v", info, err)
	}
}

func TestCheckoutIsBounded(t *testing.T) {
	r, commit, _ := treeRepo(t)
	repo, err := OpenRepo(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Checkout(t.Context(), commit, t.TempDir(), 10); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error = %v", err)
	}
}

// TestHostileTrees writes trees that git itself would not make.
func TestHostileTrees(t *testing.T) {
	r := newRepo(t)
	r.commit("start")
	repo, err := OpenRepo(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	store := func(typ plumbing.ObjectType, data string) plumbing.Hash {
		o := repo.git.Storer.NewEncodedObject()
		o.SetType(typ)
		w, err := o.Writer()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		h, err := repo.git.Storer.SetEncodedObject(o)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	outside := t.TempDir()
	blob, link := store(plumbing.BlobObject, "evil"), store(plumbing.BlobObject, outside)
	raw := func(entries ...object.TreeEntry) plumbing.Hash {
		var b strings.Builder
		for _, e := range entries {
			b.WriteString(strings.TrimPrefix(e.Mode.String(), "0") + " " + e.Name + "\x00" + string(e.Hash[:]))
		}
		return store(plumbing.TreeObject, b.String())
	}
	sub := raw(object.TreeEntry{Name: "file", Mode: filemode.Regular, Hash: blob})
	for name, tree := range map[string]plumbing.Hash{
		"parent":              raw(object.TreeEntry{Name: "..", Mode: filemode.Dir, Hash: sub}),
		"slash":               raw(object.TreeEntry{Name: "../file", Mode: filemode.Regular, Hash: blob}),
		"git folder":          raw(object.TreeEntry{Name: ".GIT", Mode: filemode.Dir, Hash: sub}),
		"same name twice":     raw(object.TreeEntry{Name: "a", Mode: filemode.Regular, Hash: blob}, object.TreeEntry{Name: "a", Mode: filemode.Regular, Hash: blob}),
		"folder under a link": raw(object.TreeEntry{Name: "a", Mode: filemode.Symlink, Hash: link}, object.TreeEntry{Name: "a", Mode: filemode.Dir, Hash: sub}),
		"file through a link": raw(object.TreeEntry{Name: "a", Mode: filemode.Symlink, Hash: link}, object.TreeEntry{Name: "a", Mode: filemode.Regular, Hash: blob}),
		"missing blob":        raw(object.TreeEntry{Name: "a", Mode: filemode.Regular, Hash: plumbing.NewHash(strings.Repeat("1", 40))}),
		"odd mode":            raw(object.TreeEntry{Name: "a", Mode: filemode.FileMode(0o140000), Hash: blob}),
	} {
		t.Run(name, func(t *testing.T) {
			commit := store(plumbing.CommitObject, "tree "+tree.String()+"\nauthor A <a@b> 1700000000 +0000\ncommitter A <a@b> 1700000000 +0000\n\nx\n")
			if err := repo.Checkout(t.Context(), commit.String(), t.TempDir(), 0); err == nil {
				t.Error("checked out")
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("written outside: %v, %v", left, err)
			}
		})
	}
}

func TestOpenRepoRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"loop": "gitdir: .\n", "junk": "junk", "nowhere": "gitdir: /nowhere\n", "empty": ""} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p, ".git"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenRepo(p); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	r := newRepo(t, "--object-format=sha256")
	if _, err := OpenRepo(r.dir); err == nil {
		t.Error("a SHA-256 repository was opened")
	}
}
