package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/murmuration/murmuration/internal/build"
)

// ErrUnknownHook is wrapped by [Run] for a hook that this program has nothing to do for.
var ErrUnknownHook = errors.New("unknown hook")

// Call is one run of a hook.
type Call struct {
	// Name is git's name of the hook, Args what git gave it.
	Name string
	Args []string
	// Stdin is what git gave it on standard input. Stderr is where people read: git shows it after "remote:".
	Stdin  io.Reader
	Stderr io.Writer
	// Dir is the folder git runs hooks in; "" is the current one.
	Dir string
	// Binary is the program started to drain the queue, with [DrainArgs]. Empty means this one.
	Binary string
	Log    *slog.Logger
	// Spawn starts the drainer. Nil means a process of its own that outlives this one.
	Spawn func(binary string, args []string, dir, log string) error
}

// DrainArgs are the arguments of the program that drains a repository's queue: it calls [Drain] with the same
// two folders.
func DrainArgs(gitDir, state string) []string {
	return []string{"hooks", "drain", "--repo", gitDir, "--state", state}
}

// Drain builds everything that waits in the queue of a repository. newRunner is given the folder for the logs of
// builds. When another process drains the queue already there is nothing to do, which is no error.
func Drain(ctx context.Context, gitDir, state string, log *slog.Logger, newRunner func(logs string) build.Runner) error {
	q, err := build.OpenQueue(state, gitDir, log)
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	if err := q.Drain(ctx, newRunner(q.Logs())); err != nil && !errors.Is(err, build.ErrDraining) {
		return err
	}
	return nil
}

// Run is what an installed hook runs. The error is nil for post-commit and post-receive whatever happens, unless
// the call itself is wrong (an unknown hook): what they can't do they say as a warning.
func Run(ctx context.Context, c Call) error {
	var err error
	switch c.Name {
	case "post-commit":
		err = c.postCommit(ctx)
	case "post-receive":
		err = c.postReceive(ctx)
	default:
		return fmt.Errorf("%w %q", ErrUnknownHook, c.Name)
	}
	if err != nil {
		c.say("WARNING: nothing is built: %v", err)
	}
	return nil
}

// say prints one or more lines for people. A push whose terminal is gone is still a push.
func (c Call) say(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		_, _ = fmt.Fprintf(c.Stderr, "murmur: %s\n", line)
	}
}

func (c Call) postCommit(ctx context.Context) error {
	out, err := git(ctx, c.Dir, "rev-parse", "HEAD", "--symbolic-full-name", "HEAD")
	if err != nil {
		return err
	}
	commit, ref, _ := strings.Cut(out, "\n")
	if !build.IsCommitID(commit) {
		return fmt.Errorf("HEAD is %.80q, not a commit", commit)
	}
	// With a detached HEAD (a rebase, a bisect) ref is "HEAD", which no pattern matches.
	return c.enqueue(ctx, []update{{old: zeroID, new: commit, ref: ref}})
}

func (c Call) postReceive(ctx context.Context) error {
	updates, err := readUpdates(c.Stdin)
	if err != nil {
		return err
	}
	return c.enqueue(ctx, updates)
}

// enqueue queues what is to be built of the updates and starts the drainer. One that fails does not stop the rest.
func (c Call) enqueue(ctx context.Context, updates []update) error {
	set, err := readSettings(ctx, c.Dir)
	if err != nil {
		return err
	}
	var wanted []update
	for _, u := range updates {
		if !u.deletion() && u.old != u.new && set.builds(u.ref) {
			wanted = append(wanted, u)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	repo, err := locate(ctx, dir)
	if err != nil {
		return err
	}
	state := repo.stateDir(set)
	q, err := build.OpenQueue(state, repo.gitDir, c.Log)
	if err != nil {
		return err
	}
	objects, err := build.OpenRepo(repo.gitDir)
	if err != nil {
		return err
	}
	queued := 0
	for _, u := range wanted {
		if c.one(ctx, q, objects, repo, set, u) {
			queued++
		}
	}
	if queued == 0 {
		return nil
	}
	if err := c.spawn(repo.gitDir, state); err != nil {
		return fmt.Errorf("the build is queued but could not be started: %w; start it with: murmur %s",
			err, strings.Join(DrainArgs(repo.gitDir, state), " "))
	}
	return nil
}

// one queues one build and says so.
func (c Call) one(ctx context.Context, q *build.Queue, objects *build.Repo, repo repository, set settings, u update) bool {
	branch := strings.TrimPrefix(strings.TrimPrefix(u.ref, "refs/heads/"), "refs/")
	service := repo.name
	data, err := objects.ReadRecipe(ctx, u.new)
	if errors.Is(err, build.ErrNoRecipe) {
		c.say("%s on %s has no %s at its root: nothing to build", u.new[:7], branch, build.RecipeFile)
		return false
	}
	if err == nil {
		if recipe, err := build.ParseRecipe(data, build.RecipeFile); err != nil {
			// Queued all the same: a failed build is a record that others see.
			c.say("this build will fail:\n%v", err)
		} else {
			service = recipe.Service
		}
	}
	name := set.repo
	if name == "" {
		name = repo.name
	}
	id, err := q.Enqueue(ctx, build.Request{Repo: repo.gitDir, RepoName: name, Commit: u.new, Ref: u.ref})
	if err != nil {
		c.say("WARNING: %s on %s is not built: %v", u.new[:7], branch, err)
		return false
	}
	c.say("building %s of %s (%s)", u.new[:7], service, branch)
	if set.server != "" {
		c.say("  %s/builds/%s", set.server, id)
	}
	c.say("  follow it: murmur build watch %s", id)
	return true
}

func (c Call) spawn(gitDir, state string) error {
	binary := c.Binary
	if binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		binary = exe
	}
	start := c.Spawn
	if start == nil {
		start = spawnDetached
	}
	return start(binary, DrainArgs(gitDir, state), state, filepath.Join(state, "drain.log"))
}
