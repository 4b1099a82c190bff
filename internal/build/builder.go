package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/release"
)

// DefaultPublishWait is how long a finished build waits for a control plane that can't be reached.
const DefaultPublishWait = 5 * time.Minute

// Builder turns requests into published releases. Work, Logs, Signer, Publisher and Log are needed; every other
// zero value is useful. A Builder may be used by several goroutines: builds of one repository wait for each
// other, because they share a folder (a path that stays the same keeps artifacts the same).
type Builder struct {
	// Work holds the folders builds happen in, Logs the logs that are kept, as <build id>.log. Both are made.
	Work, Logs string
	Signer     Signer
	Publisher  Publisher
	Log        *slog.Logger

	// ID is the URI that names this builder in provenance; "urn:murmuration:builder:<key id>" by default.
	ID string
	// Host is this machine's name for people, in build records. Default: what the system says.
	Host string
	// Env is added to the environment of every build, before the recipe's own.
	Env map[string]string
	// Writable are folders outside the work folder that builds may write, for example a shared compiler cache.
	Writable []string
	// Hide are files and folders that builds must not be able to read: the signing key, the state folder.
	// Work and Writable stay readable even when they are below a hidden folder. Linux with Landlock only.
	Hide []string
	// Confine says whether the command is confined; by default where the kernel can.
	Confine Confinement
	// Previous returns the commit of the service's previous release, "" for none. May be nil.
	Previous func(ctx context.Context, service string) (commit string, err error)
	// PublishWait is how long to try again while the control plane can't be reached. Default 5 min.
	PublishWait time.Duration
	// Echo gets a copy of the log, for builds in the foreground. Progress is told of the upload. Both may be nil.
	Echo     io.Writer
	Progress func(done, total int64)

	// maxLog is lower in tests; 0 is [MaxLog].
	maxLog int64
}

// Build builds and publishes one commit. It returns when that is done, with the result; or when it failed, with
// a Result whose Build says so, and the same error. The work folder is emptied either way. A build ended by
// somebody is one whose ctx is cancelled with the cause [ErrCancelled], or that the control plane says is
// cancelled. When ctx ends for another reason, or the error wraps [ErrUnreachable], nothing is wrong with the
// commit: the Build is still in state [Running] and the same request may be made again.
func (b *Builder) Build(ctx context.Context, req Request) (Result, error) {
	r, err := b.begin(req)
	if err != nil {
		return Result{Build: r.rec}, err
	}
	defer r.log.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.cancel = func() { cancel(ErrCancelled) }
	r.report(ctx)
	result, err := r.steps(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	result.Build = r.end(ctx, err)
	return result, err
}

// run is one build in progress.
type run struct {
	*Builder
	req    Request
	rec    Build
	log    *logFile
	work   *workDir
	cancel func()

	recipe  release.Recipe
	info    CommitInfo
	shipped chan struct{} // closed when the log is sent
	done    chan struct{} // closed to end sending the log
}

func (b *Builder) begin(req Request) (*run, error) {
	if req.ID == "" {
		req.ID = NewID()
	}
	if req.RepoName == "" {
		req.RepoName = filepath.Base(req.Repo)
	}
	r := &run{Builder: b, req: req, cancel: func() {}, rec: Build{
		ID: req.ID, Repo: req.RepoName, Commit: req.Commit, Ref: req.Ref, State: Running,
		Builder: b.host() + " " + b.Signer.KeyID(), QueuedAt: req.QueuedAt, StartedAt: time.Now().UTC(),
	}}
	fail := func(err error) (*run, error) {
		r.rec.State, r.rec.Error, r.rec.FinishedAt = Failed, err.Error(), time.Now().UTC()
		return r, err
	}
	if err := release.CheckID(req.ID); err != nil {
		return fail(fmt.Errorf("build: %w", err))
	}
	if err := os.MkdirAll(b.Logs, 0o750); err != nil {
		return fail(fmt.Errorf("build %s: %w", req.ID, err))
	}
	root, err := os.OpenRoot(b.Logs)
	if err != nil {
		return fail(fmt.Errorf("build %s: %w", req.ID, err))
	}
	defer root.Close()
	if r.log, err = newLogFile(root, req.ID+".log", b.Echo, cmp.Or(b.maxLog, MaxLog)); err != nil {
		return fail(fmt.Errorf("build %s: %w", req.ID, err))
	}
	return r, nil
}

// NewID makes an id for a build or a release: a UUIDv7 in text form.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

func (b *Builder) host() string {
	if b.Host != "" {
		return b.Host
	}
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
}

// steps is the straight line of a build. What it needs to undo, it undoes.
func (r *run) steps(ctx context.Context) (Result, error) {
	var err error
	if r.work, err = openWorkDir(ctx, r.Work, r.req.Repo); err != nil {
		return Result{}, err
	}
	defer func() {
		if err := r.work.close(); err != nil {
			r.Log.Warn("the build's folder could not be emptied", "build", r.req.ID, "folder", r.work.dir, "error", err)
		}
	}()
	repo, err := r.read(ctx)
	if err != nil {
		return Result{}, err
	}
	r.sendLog(ctx)
	r.report(ctx)
	out, err := r.make(ctx, repo)
	if err != nil {
		return Result{}, err
	}
	m, err := r.pack(ctx, repo, out)
	if err != nil {
		return Result{}, err
	}
	return r.publish(ctx, m)
}

// read opens the repository and reads the commit and its recipe, so that their errors come first.
func (r *run) read(ctx context.Context) (*Repo, error) {
	repo, err := OpenRepo(r.req.Repo)
	if err != nil {
		return nil, err
	}
	if r.info, err = repo.Info(r.req.Commit); err != nil {
		return nil, err
	}
	data, err := repo.ReadRecipe(ctx, r.info.Commit)
	if err != nil {
		return nil, err
	}
	if r.recipe, err = ParseRecipe(data, RecipeFile); err != nil {
		return nil, err
	}
	r.rec.Service, r.rec.Commit = r.recipe.Service, r.info.Commit
	r.log.say("building %s of %s: %s", short(r.info.Commit), r.recipe.Service, r.info.Subject)
	return repo, nil
}

// make checks out, runs the command, and returns the folder to ship.
func (r *run) make(ctx context.Context, repo *Repo) (string, error) {
	src := r.work.path("src")
	if err := repo.Checkout(ctx, r.info.Commit, src, r.recipe.Build.MaxOutput); err != nil {
		return "", err
	}
	if r.recipe.Build.Command != "" {
		begun := time.Now()
		if err := r.command().run(ctx); err != nil {
			return "", err
		}
		r.log.say("the build command took %.3fs", time.Since(begun).Seconds())
	}
	return outputDir(src, r.recipe.Build.Output)
}

func (r *run) command() command {
	b := r.recipe.Build
	return command{
		sandboxSpec: sandboxSpec{
			Dir: r.work.path("src"), Command: b.Command, Hide: r.Hide, FileSize: b.MaxOutput, Confine: r.Confine,
			Write: append([]string{r.work.path("src"), r.work.path("home"), r.work.path("tmp")}, r.Writable...),
		},
		env: r.environ(), timeout: b.Timeout.Std(), disk: r.work.dir, maxDisk: b.MaxOutput, log: r.log,
	}
}

// pack writes the artifact beside the folders a build may write, and makes the manifest.
func (r *run) pack(ctx context.Context, repo *Repo, out string) (release.Manifest, error) {
	f, err := r.work.root.OpenFile(artifactName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return release.Manifest{}, fmt.Errorf("pack: %w", err)
	}
	art, idx, err := artifact.Pack(ctx, out, f, artifact.PackOptions{MaxBytes: r.recipe.Build.MaxOutput})
	if err := errors.Join(err, f.Close()); err != nil {
		return release.Manifest{}, fmt.Errorf("pack %s: %w", r.recipe.Build.Output, err)
	}
	r.log.say("packed %d files, %d bytes, as %s (%d bytes)", len(idx.Files), art.RawSize, art.Digest, art.Size)
	changes, err := repo.Changes(ctx, r.info.Commit, r.previous(ctx))
	if err != nil {
		return release.Manifest{}, err
	}
	return release.Manifest{
		Version: release.ManifestVersion, Service: r.recipe.Service, ID: NewID(),
		Commit: r.info.Commit, Ref: r.req.Ref, Repo: r.req.RepoName, Author: r.info.Author, Subject: r.info.Subject,
		Reviewers: r.info.Reviewers, CreatedAt: time.Now().UTC(), Artifact: art, Recipe: r.recipe, Changes: changes,
	}, nil
}

// previous is where the change record starts. Not knowing it shortens the record and nothing else.
func (r *run) previous(ctx context.Context) string {
	if r.req.PreviousCommit != "" || r.Previous == nil {
		return r.req.PreviousCommit
	}
	commit, err := r.Previous(ctx, r.recipe.Service)
	if err != nil {
		r.log.say("the previous release is not known, so the change record holds this commit only: %v", err)
		return ""
	}
	return commit
}

const artifactName = "artifact.tar.zst"

func short(commit string) string { return commit[:min(len(commit), 7)] }
