package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Repo reads the objects of one git repository on disk: normal, bare or a linked work tree, with loose and
// packed objects and alternates. It reads committed objects only: no ref, index or work tree matters to a build.
// It must not be used by several goroutines at once. It holds no resources that need closing.
type Repo struct {
	// Dir is the common git directory, absolute.
	Dir string
	git *git.Repository
}

// OpenRepo opens the repository that path is or belongs to; see [Request.Repo] for what path may be.
func OpenRepo(path string) (*Repo, error) {
	dir, err := commonDir(path)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", path, err)
	}
	store := filesystem.NewStorageWithOptions(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRU(64*cache.MiByte), filesystem.Options{
		// Alternates name folders anywhere on the machine.
		AlternatesFS: osfs.New("/"),
		// A blob over this size is streamed, not held in memory.
		LargeObjectThreshold: 8 << 20,
	})
	r, err := git.Open(store, nil)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", path, err)
	}
	cfg, err := r.Config()
	if err != nil {
		return nil, fmt.Errorf("open repository %s: read its config: %w", path, err)
	}
	if f := cfg.Extensions.ObjectFormat; f != "" && f != "sha1" {
		return nil, fmt.Errorf("open repository %s: object format %s: %w", path, f, ErrUnsupported)
	}
	return &Repo{Dir: dir, git: r}, nil
}

// commonDir finds the folder that holds objects/: path itself when bare, path/.git, or what the .git file of a
// linked work tree or submodule points to (gitrepository-layout(5)).
func commonDir(path string) (string, error) {
	dir, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dotGit := filepath.Join(dir, ".git")
	if info, err := os.Stat(dotGit); err == nil {
		dir = dotGit
		if info.Mode().IsRegular() {
			if dir, err = pointer(dotGit, "gitdir: "); err != nil {
				return "", err
			}
		}
	}
	if common, err := pointer(filepath.Join(dir, "commondir"), ""); err == nil {
		dir = common
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if info, err := os.Stat(filepath.Join(dir, "objects")); err != nil || !info.IsDir() {
		return "", errors.New("not a git repository (there is no objects folder)")
	}
	return dir, nil
}

// pointer reads a one-line file that names a folder, relative to the file's own.
func pointer(file, prefix string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4097))
	if err != nil {
		return "", err
	}
	target, ok := strings.CutPrefix(strings.TrimRight(string(b), "\r\n"), prefix)
	if !ok || target == "" || len(b) > 4096 || strings.ContainsAny(target, "\n\x00") {
		return "", fmt.Errorf("%s does not name a folder", file)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(file), target)
	}
	return filepath.Clean(target), nil
}

// commit finds a commit by its full id, following annotated tags.
func (r *Repo) commit(id string) (*object.Commit, error) {
	if !IsCommitID(id) {
		return nil, fmt.Errorf("%.80q is not a full commit id (40 hexadecimal digits)", id)
	}
	hash := plumbing.NewHash(id)
	for range 8 {
		tag, err := r.git.TagObject(hash)
		if err != nil {
			break
		}
		hash = tag.Target
	}
	c, err := r.git.CommitObject(hash)
	if err != nil {
		return nil, fmt.Errorf("commit %s in %s: %w", id, r.Dir, err)
	}
	return c, nil
}

// IsCommitID reports whether s is a full SHA-1 object id in lower case.
func IsCommitID(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
}

// ReadRecipe returns murmur.yaml at a commit. The error wraps [ErrNoRecipe] when there is none.
func (r *Repo) ReadRecipe(ctx context.Context, commit string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := r.commit(commit)
	if err != nil {
		return nil, err
	}
	f, err := c.File(RecipeFile)
	if errors.Is(err, object.ErrFileNotFound) {
		return nil, fmt.Errorf("commit %s: %w: add one at the root of the repository", commit, ErrNoRecipe)
	}
	if err != nil {
		return nil, fmt.Errorf("commit %s: %s: %w", commit, RecipeFile, err)
	}
	if !f.Mode.IsRegular() || f.Size > MaxRecipe {
		return nil, fmt.Errorf("commit %s: %s must be a plain file of at most %d bytes", commit, RecipeFile, MaxRecipe)
	}
	rd, err := f.Reader()
	if err != nil {
		return nil, fmt.Errorf("commit %s: %s: %w", commit, RecipeFile, err)
	}
	defer rd.Close()
	return io.ReadAll(io.LimitReader(rd, MaxRecipe+1))
}
