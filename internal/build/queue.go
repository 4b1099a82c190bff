package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/release"
)

const (
	// maxAttempts is how often a job is started before an interruption counts as its failure.
	maxAttempts = 2
	// keepDone is how many finished builds, with their logs, a queue keeps.
	keepDone = 100
	// maxJobFile bounds what is read from one job or record, in bytes.
	maxJobFile = 64 << 10
	// maxWaiting bounds a queue; a repository with that many builds waiting has another problem.
	maxWaiting = 1000
)

// ErrQueueFull is wrapped by [Queue.Enqueue] when too many builds wait.
var ErrQueueFull = errors.New("too many builds are waiting")

// ErrDraining is wrapped by [Queue.Drain] when another process drains the queue already.
var ErrDraining = errors.New("another process is building from this queue")

// Job is one build that waits or runs.
type Job struct {
	Request Request `json:"request"`
	// Attempts is how often it was started and not brought to an end.
	Attempts int `json:"attempts,omitempty"`
	file     string
}

// Queue is the queue of one repository on disk. It holds no state in memory: any number of processes may each
// have one for the same folder.
type Queue struct {
	// Dir is the queue's folder.
	Dir string
	log *slog.Logger
}

// Runner builds; [*Builder] is one.
type Runner interface {
	// Build is [Builder.Build].
	Build(ctx context.Context, req Request) (Result, error)
	// Announce is [Builder.Announce].
	Announce(ctx context.Context, req Request)
}

// OpenQueue makes the queue of repo below the state folder if it is not there, and returns it.
func OpenQueue(state, repo string, log *slog.Logger) (*Queue, error) {
	q := &Queue{Dir: filepath.Join(state, "queue", repoKey(repo)), log: log}
	for _, sub := range []string{"jobs", "done", "log"} {
		if err := os.MkdirAll(filepath.Join(q.Dir, sub), 0o750); err != nil {
			return nil, fmt.Errorf("open the build queue of %s: %w", repo, err)
		}
	}
	return q, nil
}

// Logs is the folder for [Builder.Logs] of this queue's builds; old ones are removed with their records.
func (q *Queue) Logs() string { return filepath.Join(q.Dir, "log") }

// Enqueue adds a build at the end, durably, and returns its id.
func (q *Queue) Enqueue(ctx context.Context, req Request) (string, error) {
	if req.ID == "" {
		req.ID = NewID()
	}
	if err := errors.Join(release.CheckID(req.ID), checkRequest(req)); err != nil {
		return "", fmt.Errorf("queue a build: %w", err)
	}
	if req.QueuedAt.IsZero() {
		req.QueuedAt = time.Now().UTC()
	}
	lock, err := lockFile(ctx, filepath.Join(q.Dir, "enqueue.lock"))
	if err != nil {
		return "", fmt.Errorf("queue a build: %w", err)
	}
	defer lock.Close()
	names, err := q.names("jobs")
	if err != nil {
		return "", fmt.Errorf("queue a build: %w", err)
	}
	if len(names) >= maxWaiting {
		return "", fmt.Errorf("queue a build in %s: %w (%d)", q.Dir, ErrQueueFull, len(names))
	}
	next := 1
	if len(names) > 0 {
		seq, _, _ := strings.Cut(names[len(names)-1], "-")
		n, _ := strconv.Atoi(seq) // a foreign name counts as 0 and sorts where it sorts
		next = n + 1
	}
	job := Job{Request: req, file: fmt.Sprintf("%012d-%s.json", next, req.ID)}
	if err := q.write("jobs/"+job.file, job); err != nil {
		return "", fmt.Errorf("queue a build: %w", err)
	}
	return req.ID, nil
}

func checkRequest(req Request) error {
	if !IsCommitID(req.Commit) {
		return fmt.Errorf("%.80q is not a full commit id", req.Commit)
	}
	if !filepath.IsAbs(req.Repo) {
		return fmt.Errorf("repository %q is not an absolute path", req.Repo)
	}
	return nil
}

// Waiting lists the builds that wait or run, oldest first.
func (q *Queue) Waiting() ([]Job, error) {
	names, err := q.names("jobs")
	if err != nil {
		return nil, fmt.Errorf("read the build queue: %w", err)
	}
	var jobs []Job
	for _, name := range names {
		if job, err := q.job(name); err == nil {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}

// Finished lists the finished builds that are kept, oldest first.
func (q *Queue) Finished() ([]Build, error) {
	names, err := q.names("done")
	if err != nil {
		return nil, fmt.Errorf("read the build queue: %w", err)
	}
	var builds []Build
	for _, name := range names {
		var b Build
		if err := q.read("done/"+name, &b); err == nil {
			builds = append(builds, b)
		}
	}
	return builds, nil
}

// Drain builds what waits, one after the other in order, until nothing does. Only one process drains a queue: the
// error wraps [ErrDraining] at once when another one does, and what was queued before the call is then built by
// that one. A build that fails is a finished build and no error here. When ctx ends or the control plane stays
// unreachable, the job stays queued and the error says so.
func (q *Queue) Drain(ctx context.Context, r Runner) error {
	for again := false; ; again = true {
		empty, err := q.drainLocked(ctx, r)
		if again && errors.Is(err, ErrDraining) {
			return nil // whoever took over sees what was queued meanwhile
		}
		if err != nil || empty {
			return err
		}
	}
}

// drainLocked builds until nothing waits, and says whether that is still so once the lock was given up: whoever
// queued a build meanwhile found the lock taken and relies on it.
func (q *Queue) drainLocked(ctx context.Context, r Runner) (empty bool, err error) {
	lock, err := tryLock(filepath.Join(q.Dir, "drain.lock"))
	if errors.Is(err, errLocked) {
		return false, fmt.Errorf("%s: %w", q.Dir, ErrDraining)
	}
	if err != nil {
		return false, fmt.Errorf("drain the build queue: %w", err)
	}
	announced := map[string]bool{}
	for {
		names, err := q.names("jobs")
		if err != nil || len(names) == 0 {
			lock.Close()
			break
		}
		if err := q.next(ctx, r, names, announced); err != nil {
			lock.Close()
			return false, fmt.Errorf("drain the build queue: %w", err)
		}
	}
	names, err := q.names("jobs")
	return len(names) == 0, err
}

// next brings the oldest job to its end.
func (q *Queue) next(ctx context.Context, r Runner, names []string, announced map[string]bool) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	job, err := q.job(names[0])
	if err != nil {
		q.log.Error("a job in the build queue can't be read; it is recorded as failed", "file", names[0], "error", err)
		return q.finish(Job{file: names[0]}, unreadable(names[0], err))
	}
	var done Build
	if q.read("done/"+job.Request.ID+".json", &done) == nil {
		// Interrupted after the record was written and before the job was removed.
		return q.finish(job, done)
	}
	if job.Attempts >= maxAttempts {
		return q.finish(job, interrupted(job))
	}
	job.Attempts++
	if err := q.write("jobs/"+job.file, job); err != nil {
		return err
	}
	q.announce(ctx, r, names[1:], announced)
	res, err := r.Build(ctx, job.Request)
	if !res.Build.State.Final() {
		// Not the commit's fault, so not an attempt.
		job.Attempts--
		if err == nil {
			err = fmt.Errorf("build %s ended as %q without an error", job.Request.ID, res.Build.State)
		}
		return errors.Join(err, q.write("jobs/"+job.file, job))
	}
	return q.finish(job, res.Build)
}

func (q *Queue) announce(ctx context.Context, r Runner, names []string, announced map[string]bool) {
	for _, name := range names {
		if job, err := q.job(name); err == nil && !announced[name] {
			r.Announce(ctx, job.Request)
			announced[name] = true
		}
	}
}

// finish writes the record and only then removes the job.
func (q *Queue) finish(job Job, b Build) error {
	if err := q.write("done/"+b.ID+".json", b); err != nil {
		return err
	}
	root, err := os.OpenRoot(q.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := durable.Remove(root, "jobs/"+job.file); err != nil {
		return err
	}
	return q.prune(root)
}

// prune removes the oldest records and logs over the limit; names are UUIDv7, so they sort by time.
func (q *Queue) prune(root *os.Root) error {
	names, err := q.names("done")
	if err != nil {
		return err
	}
	for _, name := range names[:max(0, len(names)-keepDone)] {
		log := "log/" + strings.TrimSuffix(name, ".json") + ".log"
		if err := errors.Join(durable.Remove(root, log), durable.Remove(root, "done/"+name)); err != nil {
			return err
		}
	}
	return nil
}

func interrupted(job Job) Build {
	r := job.Request
	return Build{
		ID: r.ID, Repo: r.RepoName, Commit: r.Commit, Ref: r.Ref, State: Failed, QueuedAt: r.QueuedAt, FinishedAt: time.Now().UTC(),
		Error: fmt.Sprintf("the builder was interrupted %d times while building; look at its log, then push again or run murmur release build", job.Attempts),
	}
}

// unreadable is the record of a job whose file is damaged; its name still holds the id.
func unreadable(file string, err error) Build {
	_, id, _ := strings.Cut(strings.TrimSuffix(file, ".json"), "-")
	if release.CheckID(id) != nil {
		id = NewID()
	}
	return Build{ID: id, State: Failed, FinishedAt: time.Now().UTC(), Error: fmt.Sprintf("the queued job %s can't be read: %v; push again", file, err)}
}

// names lists the records in one of the queue's folders, sorted, without what a crash left half-written.
func (q *Queue) names(sub string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(q.Dir, sub))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".json") && !strings.HasPrefix(name, durable.TempPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (q *Queue) job(file string) (Job, error) {
	job := Job{file: file}
	if err := q.read("jobs/"+file, &job); err != nil {
		return job, err
	}
	return job, errors.Join(release.CheckID(job.Request.ID), checkRequest(job.Request))
}

func (q *Queue) read(name string, into any) error {
	root, err := os.OpenRoot(q.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJobFile+1))
	if err != nil {
		return err
	}
	if len(b) > maxJobFile {
		return fmt.Errorf("%s is larger than %d bytes", name, maxJobFile)
	}
	return json.Unmarshal(b, into)
}

func (q *Queue) write(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(q.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return durable.WriteFile(root, name, b, 0o640)
}
