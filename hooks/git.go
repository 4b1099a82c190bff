package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// gitTimeout bounds one git command that a hook runs.
const gitTimeout = 5 * time.Second

// git runs the git that is running us, in dir, with its environment. What it prints is bounded by what is asked.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, gitTimeout)
	defer stop()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		detail, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, detail)
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// settings is what a repository's git configuration says about Murmuration; see the package comment.
type settings struct {
	refs                []string
	state, repo, server string
}

// readSettings reads all murmur.* values with one git command; no value at all is no error.
func readSettings(ctx context.Context, dir string) (settings, error) {
	var s settings
	out, err := git(ctx, dir, "config", "--null", "--get-regexp", `^murmur\.`)
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() == 1 {
		err = nil // git-config(1): the section or key is invalid, which here means there is none
	}
	if err != nil {
		return s, err
	}
	for entry := range strings.SplitSeq(out, "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		switch key {
		case "murmur.refs":
			s.refs = append(s.refs, strings.Fields(value)...)
		case "murmur.state":
			s.state = value
		case "murmur.repo":
			s.repo = value
		case "murmur.server":
			s.server = strings.TrimRight(value, "/")
		}
	}
	if len(s.refs) == 0 {
		s.refs = []string{"refs/heads/main", "refs/heads/master"}
	}
	for _, p := range s.refs {
		if _, err := path.Match(strings.TrimSuffix(p, "/**"), "x"); err != nil || !strings.HasPrefix(p, "refs/") {
			return s, fmt.Errorf("murmur.refs: %q is not a pattern such as refs/heads/main or refs/heads/release/*", p)
		}
	}
	return s, nil
}

// builds reports whether a push to ref is built.
func (s settings) builds(ref string) bool {
	return slices.ContainsFunc(s.refs, func(p string) bool {
		if below, ok := strings.CutSuffix(p, "/**"); ok {
			return strings.HasPrefix(ref, below+"/")
		}
		ok, err := path.Match(p, ref)
		return ok && err == nil
	})
}

// repository is where a repository's parts are, all absolute.
type repository struct {
	// gitDir is the common git directory, hooks the folder git looks for hooks in.
	gitDir, hooks string
	bare          bool
	// name is the folder's name without ".git".
	name string
}

func locate(ctx context.Context, dir string) (repository, error) {
	out, err := git(ctx, dir, "rev-parse", "--is-bare-repository", "--git-common-dir", "--git-path", "hooks")
	if err != nil {
		return repository{}, fmt.Errorf("find the repository at %s: %w", dir, err)
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 3 {
		return repository{}, fmt.Errorf("find the repository at %s: git answered %q", dir, out)
	}
	r := repository{bare: lines[0] == "true"}
	if r.gitDir, err = absolute(dir, lines[1]); err != nil {
		return repository{}, err
	}
	if r.hooks, err = absolute(dir, lines[2]); err != nil {
		return repository{}, err
	}
	named := r.gitDir
	if filepath.Base(named) == ".git" {
		named = filepath.Dir(named)
	}
	r.name = strings.TrimSuffix(filepath.Base(named), ".git")
	return r, nil
}

func absolute(dir, p string) (string, error) {
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	p, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(p); err == nil {
		return real, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return p, nil
}

// stateDir is where this repository's builds are queued and logged.
func (r repository) stateDir(s settings) string {
	if s.state != "" {
		return s.state
	}
	return filepath.Join(r.gitDir, "murmur")
}
