package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/murmuration/murmuration/internal/durable"
)

// Options says what to install where.
type Options struct {
	// Repo is the repository: a work tree or a bare repository.
	Repo string
	// Binary is the murmur program that the hooks run, absolute. Empty means this one.
	Binary string
	// Server, State, RepoName and Refs are written to the git configuration as murmur.server, .state, .repo and
	// .refs. An empty one leaves what is there.
	Server, State, RepoName string
	Refs                    []string
	// Shared allows writing to a hooks folder that the user's or the system's configuration names, and which other
	// repositories therefore use too.
	Shared bool
}

// The errors of installing.
var (
	// ErrSharedHooks is wrapped when core.hooksPath names a folder that other repositories share.
	ErrSharedHooks = errors.New("core.hooksPath is shared with other repositories")
	// ErrTwoHooks is wrapped when both a foreign hook and an earlier one kept as .local are there.
	ErrTwoHooks = errors.New("there are two earlier hooks")
)

// HookStatus is how one hook of a repository stands.
type HookStatus struct {
	// Name is git's name of the hook, Path its file.
	Name, Path string
	// Installed says that the hook is ours, Current that it is exactly what [Install] would write, Chained that an
	// earlier hook runs before it, Foreign that somebody else's hook is in its place.
	Installed, Current, Chained, Foreign bool
}

// Install writes the hooks that suit the repository and its settings. It may be repeated. An earlier hook of
// somebody else is kept and run first; that is said in the answer, which lists the hooks after installing.
func Install(ctx context.Context, o Options) ([]HookStatus, error) {
	repo, err := locate(ctx, o.Repo)
	if err != nil {
		return nil, fmt.Errorf("install hooks: %w", err)
	}
	binary, err := o.binary()
	if err != nil {
		return nil, fmt.Errorf("install hooks: %w", err)
	}
	if err := checkShared(ctx, o); err != nil {
		return nil, fmt.Errorf("install hooks: %w", err)
	}
	if err := os.MkdirAll(repo.hooks, 0o755); err != nil {
		return nil, fmt.Errorf("install hooks: %w", err)
	}
	root, err := os.OpenRoot(repo.hooks)
	if err != nil {
		return nil, fmt.Errorf("install hooks: %w", err)
	}
	defer root.Close()
	if err := configure(ctx, o); err != nil {
		return nil, fmt.Errorf("install hooks: %w", err)
	}
	for _, k := range repo.kinds() {
		if err := put(root, k, binary); err != nil {
			return nil, fmt.Errorf("install the hook %s in %s: %w", k.name, repo.hooks, err)
		}
	}
	return status(root, repo, binary)
}

func (o Options) binary() (string, error) {
	binary := o.Binary
	if binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", err
		}
		binary = exe
	}
	if !filepath.IsAbs(binary) || strings.ContainsAny(binary, "\n\x00") {
		return "", fmt.Errorf("the program %q is not an absolute path", binary)
	}
	if info, err := os.Stat(binary); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is not a program that can be run", binary)
	}
	return binary, nil
}

// kinds are the hooks that suit this sort of repository.
func (r repository) kinds() []hookKind {
	var out []hookKind
	for _, k := range kinds() {
		if r.bare && k.bare || !r.bare && k.worktree {
			out = append(out, k)
		}
	}
	return out
}

// checkShared refuses a core.hooksPath that does not come from the repository's own configuration.
func checkShared(ctx context.Context, o Options) error {
	out, err := git(ctx, o.Repo, "config", "--show-scope", "--get", "core.hooksPath")
	if err != nil || o.Shared {
		return nil // not set
	}
	scope, dir, _ := strings.Cut(out, "\t")
	if scope == "local" || scope == "worktree" {
		return nil
	}
	return fmt.Errorf("%w: the %s configuration says %s; set core.hooksPath in this repository, or allow it with --shared", ErrSharedHooks, scope, dir)
}

func configure(ctx context.Context, o Options) error {
	for _, kv := range []struct{ key, value string }{
		{"murmur.server", o.Server}, {"murmur.state", o.State}, {"murmur.repo", o.RepoName}, {"murmur.refs", strings.Join(o.Refs, " ")},
	} {
		if kv.value == "" {
			continue
		}
		if _, err := git(ctx, o.Repo, "config", "--local", "--replace-all", kv.key, kv.value); err != nil {
			return err
		}
	}
	_, err := readSettings(ctx, o.Repo)
	return err
}

// put writes one hook, keeping a foreign one as .local first, so that at no time a hook is lost.
func put(root *os.Root, k hookKind, binary string) error {
	old, err := readHook(root, k.name)
	if err != nil {
		return err
	}
	if old != nil && !ours(old) {
		kept, err := readHook(root, k.name+localSuffix)
		if err != nil {
			return err
		}
		if kept != nil {
			return fmt.Errorf("%w: %[2]s and %[2]s%[3]s; merge them into %[2]s%[3]s and remove %[2]s", ErrTwoHooks, k.name, localSuffix)
		}
		if err := durable.Rename(root, k.name, k.name+localSuffix); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(root, k.name, []byte(k.script(binary)), 0o755); err != nil {
		return err
	}
	return root.Chmod(k.name, 0o755)
}

// readHook returns a hook's content, nil when there is none.
func readHook(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHookFile))
	if b == nil {
		b = []byte{}
	}
	return b, err
}

// Uninstall removes our hooks, of either sort, puts kept ones back, and leaves the settings. Hooks of others are
// not touched.
func Uninstall(ctx context.Context, repoDir string) error {
	repo, err := locate(ctx, repoDir)
	if err != nil {
		return fmt.Errorf("uninstall hooks: %w", err)
	}
	root, err := os.OpenRoot(repo.hooks)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("uninstall hooks: %w", err)
	}
	defer root.Close()
	for _, k := range kinds() {
		if err := remove(root, k.name); err != nil {
			return fmt.Errorf("uninstall the hook %s in %s: %w", k.name, repo.hooks, err)
		}
	}
	return nil
}

func remove(root *os.Root, name string) error {
	content, err := readHook(root, name)
	if err != nil || content == nil || !ours(content) {
		return err
	}
	if kept, err := readHook(root, name+localSuffix); err != nil || kept == nil {
		return errors.Join(err, durable.Remove(root, name))
	}
	return durable.Rename(root, name+localSuffix, name)
}

// Status tells how the hooks that suit the repository stand. Binary is as in [Options].
func Status(ctx context.Context, o Options) ([]HookStatus, error) {
	repo, err := locate(ctx, o.Repo)
	if err != nil {
		return nil, fmt.Errorf("status of hooks: %w", err)
	}
	binary, err := o.binary()
	if err != nil {
		return nil, fmt.Errorf("status of hooks: %w", err)
	}
	root, err := os.OpenRoot(repo.hooks)
	if errors.Is(err, os.ErrNotExist) {
		var out []HookStatus
		for _, k := range repo.kinds() {
			out = append(out, HookStatus{Name: k.name, Path: filepath.Join(repo.hooks, k.name)})
		}
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status of hooks: %w", err)
	}
	defer root.Close()
	return status(root, repo, binary)
}

func status(root *os.Root, repo repository, binary string) ([]HookStatus, error) {
	var out []HookStatus
	for _, k := range repo.kinds() {
		content, err := readHook(root, k.name)
		if err != nil {
			return nil, fmt.Errorf("status of the hook %s: %w", k.name, err)
		}
		local, err := readHook(root, k.name+localSuffix)
		if err != nil {
			return nil, fmt.Errorf("status of the hook %s: %w", k.name, err)
		}
		mine := content != nil && ours(content)
		out = append(out, HookStatus{
			Name: k.name, Path: filepath.Join(repo.hooks, k.name), Installed: mine,
			Current: mine && string(content) == k.script(binary), Chained: mine && local != nil, Foreign: content != nil && !mine,
		})
	}
	return out, nil
}
