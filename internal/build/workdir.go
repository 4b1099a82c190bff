package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockPoll is how often a lock that another process holds is tried again.
const lockPoll = 200 * time.Millisecond

// workDir is the folder of one build: src (the checkout), home and tmp for the command, the artifact beside
// them. Its path depends on the repository only, so that a command that writes its path into its output still
// gives the same artifact every time on this machine; a lock keeps two builds from sharing it.
type workDir struct {
	dir  string
	root *os.Root
	lock *os.File
}

func openWorkDir(ctx context.Context, base, repo string) (*workDir, error) {
	base, err := filepath.Abs(base)
	if err != nil {
		return nil, fmt.Errorf("make the build's folder: %w", err)
	}
	// Landlock rules and $PWD need the real path.
	if err := os.MkdirAll(base, 0o750); err != nil {
		return nil, fmt.Errorf("make the build's folder: %w", err)
	}
	if base, err = filepath.EvalSymlinks(base); err != nil {
		return nil, fmt.Errorf("make the build's folder: %w", err)
	}
	w := &workDir{dir: filepath.Join(base, repoKey(repo))}
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the build's folder: %w", err)
	}
	if w.lock, err = lockFile(ctx, w.dir+".lock"); err != nil {
		return nil, fmt.Errorf("wait for another build of %s to end: %w", repo, err)
	}
	if err := w.fill(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the build's folder %s: %w", w.dir, err), w.close())
	}
	return w, nil
}

func (w *workDir) fill() error {
	if err := emptyDir(w.dir); err != nil {
		return err
	}
	var err error
	if w.root, err = os.OpenRoot(w.dir); err != nil {
		return err
	}
	for _, name := range []string{"src", "home", "tmp"} {
		if err := errors.Join(w.root.Mkdir(name, 0o755), w.root.Chmod(name, 0o755)); err != nil {
			return err
		}
	}
	return nil
}

func (w *workDir) path(name string) string { return filepath.Join(w.dir, name) }

// close removes everything in the folder and lets the next build have it.
func (w *workDir) close() error {
	err := emptyDir(w.dir)
	if w.root != nil {
		err = errors.Join(err, w.root.Close())
	}
	return errors.Join(err, w.lock.Close())
}

// emptyDir removes all that is in dir, also from folders that a build made read-only (Go's module cache does).
func emptyDir(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err := root.RemoveAll(e.Name())
		if err != nil && e.IsDir() {
			makeWritable(root, e.Name())
			err = root.RemoveAll(e.Name())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeWritable gives the owner all rights on every folder below name, best effort.
func makeWritable(root *os.Root, name string) {
	_ = root.Chmod(name, 0o700)
	f, err := root.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			makeWritable(root, filepath.Join(name, e.Name()))
		}
	}
}

// repoKey names a repository in file names: a readable part, and a hash of its path.
func repoKey(repo string) string {
	if dir, err := commonDir(repo); err == nil {
		repo = dir
	} else if abs, err := filepath.Abs(repo); err == nil {
		repo = abs
	}
	if real, err := filepath.EvalSymlinks(repo); err == nil {
		repo = real
	}
	sum := sha256.Sum256([]byte(repo))
	name := filepath.Base(strings.TrimSuffix(strings.TrimSuffix(repo, "/.git"), ".git"))
	name = strings.Map(func(r rune) rune {
		if r < 128 && (r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return '-'
	}, name)
	return name[:min(len(name), 40)] + "-" + hex.EncodeToString(sum[:8])
}

// lockFile takes the exclusive lock of a file (flock(2)), waiting until ctx ends. Closing the file, or the end of
// the process, releases it. The descriptor is not inherited by children.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

var errLocked = errors.New("locked by another process")

// tryLock is lockFile without waiting: [errLocked] when somebody else holds the lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if err == syscall.EWOULDBLOCK {
			err = errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// outputDir finds the folder to ship below src. Links on the way may lead anywhere inside src, never out of it.
// It must hold something.
func outputDir(src, output string) (string, error) {
	root, err := os.OpenRoot(src)
	if err != nil {
		return "", fmt.Errorf("build.output: %w", err)
	}
	defer root.Close()
	out, err := root.OpenRoot(output)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("build.output: %w: the folder %q does not exist after the build command", ErrEmptyOutput, output)
	}
	if err != nil {
		return "", fmt.Errorf("build.output: %q is not a folder in the checkout: %w", output, err)
	}
	defer out.Close()
	dir, err := out.Open(".")
	if err != nil {
		return "", fmt.Errorf("build.output: %w", err)
	}
	defer dir.Close()
	if names, err := dir.Readdirnames(1); err == io.EOF || len(names) == 0 {
		return "", fmt.Errorf("build.output: %w: the folder %q is empty after the build command", ErrEmptyOutput, output)
	}
	// Nothing of the build runs any more, so the path can't change under the packer.
	return filepath.EvalSymlinks(filepath.Join(src, output))
}

// environ is the clean environment of a build command, sorted. Later sources win: ours, the operator's, what the
// recipe passes from the builder's own, the recipe's.
func (r *run) environ() []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin",
		"HOME": r.work.path("home"), "TMPDIR": r.work.path("tmp"), "PWD": r.work.path("src"),
		"LANG": "C.UTF-8", "TZ": "UTC", "CI": "true", "SHELL": "/bin/sh",
		"SOURCE_DATE_EPOCH": strconv.FormatInt(r.info.When.Unix(), 10),
		"MURMUR_COMMIT":     r.info.Commit, "MURMUR_REF": r.req.Ref, "MURMUR_SERVICE": r.recipe.Service,
	}
	maps.Copy(env, r.Env)
	for _, name := range r.recipe.Build.Pass {
		if v, ok := os.LookupEnv(name); ok && mayPass(name) {
			env[name] = v
		} else {
			r.log.say("build.pass: %s is not set for the builder, or is never handed to a build", name)
		}
	}
	maps.Copy(env, r.recipe.Build.Env)
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// mayPass keeps from a build what belongs to the builder itself (its tokens) and to the git process around it.
func mayPass(name string) bool {
	return !strings.HasPrefix(name, "MURMUR_") && !strings.HasPrefix(name, "GIT_")
}
