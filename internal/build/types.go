package build

import (
	"context"
	"errors"
	"time"

	"github.com/murmuration/murmuration/release"
)

// State is where a build is in its life.
type State string

// The states of a build. Published, Failed and Cancelled are final.
const (
	Queued    State = "queued"
	Running   State = "running"
	Published State = "published"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Final reports whether a build in this state is finished.
func (s State) Final() bool { return s == Published || s == Failed || s == Cancelled }

// Build is the record of one build, as it is kept on disk and reported to the control plane.
type Build struct {
	// ID is a UUIDv7.
	ID string `json:"id"`
	// Service is "" until murmur.yaml was read.
	Service string `json:"service,omitempty"`
	// Repo is the repository's name for people, Commit 40 hexadecimal digits, Ref the full ref ("refs/heads/main").
	Repo   string `json:"repo"`
	Commit string `json:"commit"`
	Ref    string `json:"ref,omitempty"`
	State  State  `json:"state"`
	// ReleaseID and Digest are set once published.
	ReleaseID string         `json:"release_id,omitempty"`
	Digest    release.Digest `json:"digest,omitempty"`
	// Error says in a few lines why the build failed and what to do next.
	Error string `json:"error,omitempty"`
	// Builder is "host key-id".
	Builder    string    `json:"builder,omitempty"`
	QueuedAt   time.Time `json:"queued_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	// LogSize is the length of the log so far, in bytes.
	LogSize int64 `json:"log_size,omitempty"`
}

// Request asks for one build.
type Request struct {
	// ID is the build's UUIDv7; [Queue.Enqueue] and [Builder.Build] make one when it is empty.
	ID string `json:"id"`
	// Repo is the path of the repository: a work tree, a linked work tree, a bare repository or a .git folder.
	Repo string `json:"repo"`
	// RepoName is the repository's name in the manifest; the base name of Repo when empty.
	RepoName string `json:"repo_name,omitempty"`
	// Commit is 40 hexadecimal digits; an annotated tag's id is followed to its commit.
	Commit string `json:"commit"`
	// Ref is the full ref that was pushed, for example refs/heads/main.
	Ref string `json:"ref,omitempty"`
	// PreviousCommit is where the change record starts (exclusive). Empty means what [Builder.Previous] says.
	PreviousCommit string `json:"previous_commit,omitempty"`
	// QueuedAt is when the request was made.
	QueuedAt time.Time `json:"queued_at,omitzero"`
}

// Result is what a published build left.
type Result struct {
	Build    Build
	Manifest release.Manifest
	// Already says that the server had this release before; Build.ReleaseID is then the existing one.
	Already bool
}

// Signer signs under the builder's own identity. It must be safe for concurrent use.
type Signer interface {
	// KeyID names the key, as the fleet's trust list does.
	KeyID() string
	// SignStatement returns the DSSE envelope of an in-toto statement.
	SignStatement(statement []byte) (envelope []byte, err error)
}

// Publisher is the control plane as a builder sees it. It must be safe for concurrent use. An error that wraps
// [ErrUnreachable] is tried again; any other is final.
type Publisher interface {
	// Upload sends the artifact at path, going on where an earlier try ended. progress may be nil.
	Upload(ctx context.Context, digest release.Digest, path string, progress func(done, total int64)) error
	// Publish makes the release. already says it existed; releaseID is then that of the existing one.
	Publish(ctx context.Context, manifest, envelope []byte, buildID string) (releaseID string, already bool, err error)
	// Report creates or updates the build's record. cancelled says that somebody cancelled the build.
	Report(ctx context.Context, b Build) (cancelled bool, err error)
	// AppendLog adds p (at most [MaxLogPart] bytes) to the build's log at offset off.
	AppendLog(ctx context.Context, service, buildID string, off int64, p []byte) (cancelled bool, err error)
}

// Confinement says whether build commands are confined to their folder.
type Confinement string

// The choices of confinement.
const (
	// ConfineIfPossible confines where the kernel can and warns in the log where it can't.
	ConfineIfPossible Confinement = ""
	// ConfineAlways refuses to build where the kernel can't.
	ConfineAlways Confinement = "always"
	// ConfineNever lets a build write wherever the builder's user may, with a warning in the log.
	ConfineNever Confinement = "never"
)

// Bounds of a build.
const (
	// MaxLog is the most a build may write to its log, in bytes; one that writes more fails.
	MaxLog = 64 << 20
	// MaxLogPart is the most sent to the control plane in one AppendLog, in bytes.
	MaxLogPart = 256 << 10
	// RecipeFile is the recipe's name at the root of the commit, MaxRecipe its largest size in bytes.
	RecipeFile = "murmur.yaml"
	MaxRecipe  = 256 << 10
)

// The errors of a build that a caller may want to tell apart. All reach it wrapped.
var (
	// ErrUnreachable is wrapped by a [Publisher] when the control plane could not be reached.
	ErrUnreachable = errors.New("the control plane cannot be reached")
	// ErrCancelled ends a build that somebody cancelled.
	ErrCancelled = errors.New("the build was cancelled")
	// ErrTimeout ends a build that ran longer than its recipe allows.
	ErrTimeout = errors.New("the build ran out of time")
	// ErrTooLarge ends a build that filled more disk than its recipe allows.
	ErrTooLarge = errors.New("the build filled too much disk")
	// ErrLogFull ends a build that wrote more than [MaxLog] bytes of output.
	ErrLogFull = errors.New("the build wrote too much output")
	// ErrNoRecipe means that the commit has no murmur.yaml at its root.
	ErrNoRecipe = errors.New("the commit has no " + RecipeFile)
	// ErrUnsupported means that the commit needs something the clean checkout does not do.
	ErrUnsupported = errors.New("not supported")
	// ErrEmptyOutput means that the command left nothing to ship.
	ErrEmptyOutput = errors.New("there is nothing to ship")
	// ErrNoSandbox means that [ConfineAlways] is set and the kernel has no Landlock.
	ErrNoSandbox = errors.New("this kernel cannot confine a build")
)
