package demo

import (
	"bytes"
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/murmuration/murmuration/hooks"
	"github.com/murmuration/murmuration/internal/client"
)

//go:embed sample
var sample embed.FS

// repo is the demo's git server (a bare repository with our hooks) and a developer's clone of it.
type repo struct {
	bare, clone string
}

// newRepo makes both, with the sample service in the clone, not yet committed.
// Sdk is a checkout of Murmuration: the sample imports its darkmode package from there. Flags is the file that
// tells the sample where flags are.
func newRepo(ctx context.Context, dir, sdk, flags string) (*repo, error) {
	r := &repo{bare: filepath.Join(dir, "hello.git"), clone: filepath.Join(dir, "hello")}
	if _, err := os.Stat(r.bare); err == nil {
		return r, nil // an earlier demo in the same folder
	}
	if err := r.init(ctx); err != nil {
		return nil, err
	}
	return r, r.writeSample(ctx, sdk, flags)
}

// init makes the bare repository and the clone, empty, and does nothing when they are there.
func (r *repo) init(ctx context.Context) error {
	if _, err := os.Stat(r.bare); err == nil {
		return nil
	}
	for _, args := range [][]string{{"init", "--quiet", "--bare", "--initial-branch=main", r.bare}, {"init", "--quiet", "--initial-branch=main", r.clone}} {
		if _, err := git(ctx, filepath.Dir(r.bare), args...); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"config", "user.name", "Dana Developer"}, {"config", "user.email", "dana@example.com"},
		{"config", "commit.gpgsign", "false"}, {"remote", "add", "origin", r.bare},
	} {
		if _, err := git(ctx, r.clone, args...); err != nil {
			return err
		}
	}
	return nil
}

// writeSample copies the embedded service; the .txt endings keep its Go out of our own module.
func (r *repo) writeSample(ctx context.Context, sdk, flags string) error {
	sums, err := os.ReadFile(filepath.Join(sdk, "go.sum"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.clone, "go.sum"), sums, 0o644); err != nil {
		return err
	}
	fill := strings.NewReplacer("{{SDK}}", sdk, "{{DARKMODE_CONFIG}}", flags, "{{GOMODCACHE}}", moduleCache(ctx))
	return fs.WalkDir(sample, "sample", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := sample.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "sample/")
		for _, ending := range []string{".go.txt", ".mod.txt"} {
			if strings.HasSuffix(name, ending) {
				name = strings.TrimSuffix(name, ".txt")
			}
		}
		to := filepath.Join(r.clone, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, []byte(fill.Replace(string(data))), 0o644)
	})
}

// set makes the service say a version, and be healthy or not.
func (r *repo) set(version string, healthy bool) error {
	path := filepath.Join(r.clone, "main.go")
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(string(src), "\n")
	for i, l := range lines {
		switch {
		case strings.HasPrefix(l, "\tversion = "):
			lines[i] = fmt.Sprintf("\tversion = %q", version)
		case strings.HasPrefix(l, "\thealthy = "):
			lines[i] = fmt.Sprintf("\thealthy = %v", healthy)
		}
	}
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644)
}

// commit commits everything in the clone and returns the commit.
func (r *repo) commit(ctx context.Context, message string) (string, error) {
	if _, err := git(ctx, r.clone, "add", "-A"); err != nil {
		return "", err
	}
	if _, err := git(ctx, r.clone, "commit", "--quiet", "--allow-empty", "-m", message); err != nil {
		return "", err
	}
	return git(ctx, r.clone, "rev-parse", "HEAD")
}

// push pushes main and returns what the server's hooks said ("remote:" lines).
func (r *repo) push(ctx context.Context) (string, error) {
	return git(ctx, r.clone, "push", "--quiet", "origin", "main")
}

// git runs git in dir, apart from the user's own configuration, and returns its trimmed output.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// pad adds a file of n bytes that do not compress, so that staging takes long enough to be disturbed. Its
// content is a fixed sequence: the same commit gives the same bytes.
func (r *repo) pad(n int) error {
	data := make([]byte, n)
	state := uint64(0x9e3779b97f4a7c15)
	for i := 0; i+8 <= n; i += 8 {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		binary.LittleEndian.PutUint64(data[i:], state)
	}
	return os.WriteFile(filepath.Join(r.clone, "static", "padding.bin"), data, 0o644)
}

// installHooks installs post-receive in the bare repository, with the builder's state and credentials.
func (r *repo) installHooks(ctx context.Context, state string, access client.Context) error {
	cfg, err := client.LoadConfig(filepath.Join(state, "config.json"))
	if err != nil {
		return err
	}
	cfg.Set("builder", access)
	if err := cfg.Save(); err != nil {
		return err
	}
	_, err = hooks.Install(ctx, hooks.Options{Repo: r.bare, State: state, Server: access.Servers[0], RepoName: "hello"})
	return err
}

// sdkDir finds the checkout of Murmuration that this program was built in: above the program, or above the
// current folder.
func sdkDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{filepath.Dir(self), here} {
		for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && bytes.HasPrefix(mod, []byte("module github.com/murmuration/murmuration\n")) {
				return dir, nil
			}
		}
	}
	return "", errors.New("the sample service is built against the darkmode package: run the demo in a checkout of Murmuration, or name one with --sdk")
}

// moduleCache is where Go keeps modules; builds have a home of their own and are handed it by name. "" leaves
// it to the build, which then says what it misses.
func moduleCache(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
