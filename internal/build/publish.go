package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/murmuration/murmuration/release"
)

const (
	// reportTimeout bounds one report to the control plane, so that a slow one delays no build for long.
	reportTimeout = 5 * time.Second
	// maxError bounds the error in a build's record, in bytes. The log has it whole.
	maxError = 8 << 10
	// maxPublishPause is the longest pause between two tries to publish.
	maxPublishPause = 15 * time.Second
)

// publish signs, uploads and publishes, in this order, so that what is published is always whole.
func (r *run) publish(ctx context.Context, m release.Manifest) (Result, error) {
	manifest, err := m.Encode()
	if err != nil {
		return Result{}, err
	}
	st := release.NewStatement(m, manifest, r.builderID(), r.req.ID, r.rec.StartedAt, time.Now().UTC())
	statement, err := json.Marshal(st)
	if err != nil {
		return Result{}, fmt.Errorf("encode the provenance statement: %w", err)
	}
	envelope, err := r.Signer.SignStatement(statement)
	if err != nil {
		return Result{}, fmt.Errorf("sign the provenance statement with key %s: %w", r.Signer.KeyID(), err)
	}
	result := Result{Manifest: m}
	err = r.untilReachable(ctx, func() error {
		if err := r.Publisher.Upload(ctx, m.Artifact.Digest, r.work.path(artifactName), r.Progress); err != nil {
			return fmt.Errorf("upload the artifact: %w", err)
		}
		id, already, err := r.Publisher.Publish(ctx, manifest, envelope, r.req.ID)
		if err != nil {
			return fmt.Errorf("make the release: %w", err)
		}
		r.rec.ReleaseID, result.Already = id, already
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	r.rec.Digest = m.Artifact.Digest
	if result.Already {
		r.log.say("release %s of %s is this already", r.rec.ReleaseID, m.Service)
	} else {
		r.log.say("published release %s of %s", r.rec.ReleaseID, m.Service)
	}
	return result, nil
}

func (r *run) builderID() string {
	if r.ID != "" {
		return r.ID
	}
	return "urn:murmuration:builder:" + r.Signer.KeyID()
}

// untilReachable tries again, ever more slowly, while the control plane can't be reached and the time for that
// is not over.
func (r *run) untilReachable(ctx context.Context, try func() error) error {
	wait := r.PublishWait
	if wait == 0 {
		wait = DefaultPublishWait
	}
	for pause, waited := 500*time.Millisecond, time.Duration(0); ; pause = min(2*pause, maxPublishPause) {
		err := try()
		if !errors.Is(err, ErrUnreachable) || waited+pause > wait {
			return err
		}
		r.log.say("%v; trying again in %s", err, pause)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		waited += pause
	}
}

// report tells the control plane how the build stands. A report that does not arrive fails no build: the record
// on the builder's disk is what counts, and publishing tells again.
func (r *run) report(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, reportTimeout)
	defer stop()
	r.rec.LogSize = r.log.len()
	cancelled, err := r.Publisher.Report(ctx, r.rec)
	if err != nil {
		r.Log.Warn("the build's state was not reported", "build", r.req.ID, "state", r.rec.State, "error", err)
	}
	if cancelled && !r.rec.State.Final() {
		r.cancel()
	}
}

// end records how the build ended, tells it, and returns the record.
func (r *run) end(ctx context.Context, err error) Build {
	switch {
	case err == nil:
		r.rec.State = Published
	case errors.Is(err, ErrCancelled):
		r.rec.State, r.rec.Error = Cancelled, err.Error()
	case errors.Is(err, ErrUnreachable) || ctx.Err() != nil:
		r.log.say("not finished: %v", err)
		r.finishLog()
		return r.rec
	default:
		r.rec.State, r.rec.Error = Failed, err.Error()
	}
	if len(r.rec.Error) > maxError {
		r.rec.Error = strings.ToValidUTF8(r.rec.Error[:maxError], "") + "..."
	}
	if err != nil {
		r.log.say("%s: %v", r.rec.State, err)
	}
	r.finishLog()
	r.rec.FinishedAt = time.Now().UTC()
	r.report(context.WithoutCancel(ctx))
	r.Log.Info("build finished", "build", r.req.ID, "service", r.rec.Service, "commit", r.rec.Commit,
		"state", r.rec.State, "release", r.rec.ReleaseID, "error", r.rec.Error)
	return r.rec
}

// sendLog starts sending the log; before murmur.yaml was read there is no service to send it for.
func (r *run) sendLog(ctx context.Context) {
	r.done, r.shipped = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(r.shipped)
		r.log.ship(ctx, r.done, r.Publisher, r.rec.Service, r.req.ID, r.cancel, r.Log)
	}()
}

// finishLog sends the rest of the log and ends the sending.
func (r *run) finishLog() {
	if r.done != nil {
		close(r.done)
		<-r.shipped
		r.done = nil
	}
}

// Announce tells the control plane of a build that waits. It is best effort, like every report.
func (b *Builder) Announce(ctx context.Context, req Request) {
	ctx, stop := context.WithTimeout(ctx, reportTimeout)
	defer stop()
	rec := Build{
		ID: req.ID, Repo: req.RepoName, Commit: req.Commit, Ref: req.Ref, State: Queued,
		Builder: b.host() + " " + b.Signer.KeyID(), QueuedAt: req.QueuedAt,
	}
	if _, err := b.Publisher.Report(ctx, rec); err != nil {
		b.Log.Warn("the waiting build was not reported", "build", req.ID, "error", err)
	}
}
