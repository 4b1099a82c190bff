package depot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// The states of a build, as stored.
const (
	buildQueued    = "queued"
	buildRunning   = "running"
	buildPublished = "published"
	buildFailed    = "failed"
	buildCancelled = "cancelled"
)

// watchAgain is when a watch looks at the record unasked: another seeder may have changed it.
const watchAgain = 5 * time.Second

func buildStates() map[murmurv1.BuildState]string {
	return map[murmurv1.BuildState]string{
		murmurv1.BuildState_BUILD_STATE_QUEUED:    buildQueued,
		murmurv1.BuildState_BUILD_STATE_RUNNING:   buildRunning,
		murmurv1.BuildState_BUILD_STATE_PUBLISHED: buildPublished,
		murmurv1.BuildState_BUILD_STATE_FAILED:    buildFailed,
		murmurv1.BuildState_BUILD_STATE_CANCELLED: buildCancelled,
	}
}

func final(state string) bool {
	return state == buildPublished || state == buildFailed || state == buildCancelled
}

// buildKey names a build by its id alone: its service is not known until murmur.yaml was read, and ids sort by time.
func buildKey(id string) record.Key { return record.Key{Kind: record.KindBuild, ID: id} }

// showBuild converts a build for the API.
func (d *Depot) showBuild(b record.Build) *murmurv1.Build {
	out := &murmurv1.Build{
		Id: b.ID, Service: b.Service, Repo: b.Repo, Commit: b.Commit, Ref: b.Ref, ReleaseId: b.ReleaseID,
		Error: b.Error, Builder: b.Builder, QueuedAt: wire.Time(b.QueuedAt), StartedAt: wire.Time(b.StartedAt),
		FinishedAt: wire.Time(b.FinishedAt), LogSize: d.logSize(b.ID),
	}
	for state, name := range buildStates() {
		if name == b.State {
			out.State = state
		}
	}
	return out
}

// readBuild checks what a builder reports.
func readBuild(in *murmurv1.Build) (record.Build, error) {
	var b record.Build
	if in == nil {
		return b, wire.Invalid("report build: no build")
	}
	if err := release.CheckID(in.Id); err != nil {
		return b, wire.Invalid("report build: %w", err)
	}
	if in.Service != "" {
		if err := release.CheckService(in.Service); err != nil {
			return b, wire.Invalid("report build: service %w", err)
		}
	}
	if in.ReleaseId != "" {
		if err := release.CheckID(in.ReleaseId); err != nil {
			return b, wire.Invalid("report build: release %w", err)
		}
	}
	if n := len(in.Commit); n != 40 && n != 64 || strings.Trim(in.Commit, "0123456789abcdef") != "" {
		return b, wire.Invalid("report build: %.80q is not a full git commit", in.Commit)
	}
	state, ok := buildStates()[in.State]
	if !ok {
		return b, wire.Invalid("report build: unknown state %d", in.State)
	}
	return record.Build{
		ID: in.Id, Service: in.Service, Repo: wire.Text(in.Repo, 1024), Commit: in.Commit, Ref: wire.Text(in.Ref, 1024),
		State: state, ReleaseID: in.ReleaseId, Error: wire.Text(in.Error, 16<<10), Builder: wire.Text(in.Builder, 1024),
		QueuedAt: wire.ToTime(in.QueuedAt), StartedAt: wire.ToTime(in.StartedAt), FinishedAt: wire.ToTime(in.FinishedAt),
	}, nil
}

// ReportBuild implements the API. A build that ended stays as it ended: a report that comes late, or after a
// cancel, changes nothing, and the answer says how it stands. A change of state is audited.
func (d *Depot) ReportBuild(ctx context.Context, req *connect.Request[murmurv1.ReportBuildRequest]) (*connect.Response[murmurv1.ReportBuildResponse], error) {
	in, err := readBuild(req.Msg.Build)
	if err != nil {
		return nil, err
	}
	stored, err := d.changeBuild(ctx, in.ID, "build.report", "", true, func(b *record.Build) error {
		if final(b.State) {
			return record.ErrUnchanged
		}
		if b.ID != "" && (b.Commit != in.Commit || b.Repo != in.Repo) {
			return wire.Invalid("report build: build %s is of commit %s of %s", b.ID, b.Commit, b.Repo)
		}
		*b = in
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.ReportBuildResponse{Build: d.showBuild(stored)}), nil
}

// changeBuild applies change to a build's record with compare-and-swap, audited when the state changes, and wakes
// its watchers. It returns the record as it stands.
func (d *Depot) changeBuild(ctx context.Context, id, what, why string, create bool, change func(*record.Build) error) (record.Build, error) {
	for range publishTries {
		b, rev, err := record.Get[record.Build](ctx, d.cfg.Store, buildKey(id))
		if errors.Is(err, record.ErrNotFound) && !create {
			return b, wire.NotFound("no build %s", id)
		}
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			return b, err
		}
		before := b
		if err := change(&b); errors.Is(err, record.ErrUnchanged) {
			return before, nil
		} else if err != nil {
			return before, err
		}
		op, err := record.PutForm(buildKey(id), b, rev)
		if err != nil {
			return before, err
		}
		if before.State == b.State {
			_, err = d.cfg.Store.Commit(ctx, op)
		} else {
			_, err = d.cfg.Audit.Commit(ctx, what, id, why, before, b, op)
		}
		if errors.Is(err, record.ErrConflict) {
			continue
		}
		if err != nil {
			return before, fmt.Errorf("build %s: %w", id, err)
		}
		d.announce(b)
		return b, nil
	}
	return record.Build{}, fmt.Errorf("build %s: %w", id, record.ErrConflict)
}

// announce wakes the watchers of a build that changed.
func (d *Depot) announce(b record.Build) {
	if final(b.State) {
		d.forgetLog(b.ID)
		return
	}
	d.log(b.ID).wake()
}

// getBuild reads one build.
func (d *Depot) getBuild(ctx context.Context, id string) (record.Build, error) {
	if err := release.CheckID(id); err != nil {
		return record.Build{}, wire.Invalid("build %w", err)
	}
	b, _, err := record.Get[record.Build](ctx, d.cfg.Store, buildKey(id))
	if errors.Is(err, record.ErrNotFound) {
		return b, wire.NotFound("no build %s", id)
	}
	return b, err
}

// GetBuild implements the API.
func (d *Depot) GetBuild(ctx context.Context, req *connect.Request[murmurv1.GetBuildRequest]) (*connect.Response[murmurv1.GetBuildResponse], error) {
	b, err := d.getBuild(ctx, req.Msg.Id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.GetBuildResponse{Build: d.showBuild(b)}), nil
}

// ListBuilds implements the API.
func (d *Depot) ListBuilds(ctx context.Context, req *connect.Request[murmurv1.ListBuildsRequest]) (*connect.Response[murmurv1.ListBuildsResponse], error) {
	out, after := &murmurv1.ListBuildsResponse{}, ""
	limit := listLimit(req.Msg.Limit)
	for {
		items, err := d.cfg.Store.Page(ctx, record.KindBuild, "", after, maxList, true)
		if err != nil {
			return nil, err
		}
		entries, err := record.DecodeItems[record.Build](items)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if req.Msg.Service != "" && e.Form.Service != req.Msg.Service {
				continue
			}
			if out.Builds = append(out.Builds, d.showBuild(e.Form)); len(out.Builds) == limit {
				return connect.NewResponse(out), nil
			}
		}
		if len(items) < maxList {
			return connect.NewResponse(out), nil
		}
		after = items[len(items)-1].Key.ID
	}
}

// CancelBuild implements the API. The builder learns of it with its next report or its next piece of log.
func (d *Depot) CancelBuild(ctx context.Context, req *connect.Request[murmurv1.CancelBuildRequest]) (*connect.Response[murmurv1.CancelBuildResponse], error) {
	if err := release.CheckID(req.Msg.Id); err != nil {
		return nil, wire.Invalid("build %w", err)
	}
	reason := wire.Text(req.Msg.Reason, 1024)
	b, err := d.changeBuild(ctx, req.Msg.Id, "build.cancel", reason, false, func(b *record.Build) error {
		switch {
		case b.State == buildCancelled:
			return record.ErrUnchanged
		case final(b.State):
			return wire.Precondition("build %s is %s already: there is nothing to cancel", b.ID, b.State)
		}
		b.State, b.Error, b.FinishedAt = buildCancelled, "cancelled", time.Now().UTC()
		if reason != "" {
			b.Error += ": " + reason
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.CancelBuildResponse{Build: d.showBuild(b)}), nil
}

// AppendBuildLog implements the API.
func (d *Depot) AppendBuildLog(ctx context.Context, req *connect.Request[murmurv1.AppendBuildLogRequest]) (*connect.Response[murmurv1.AppendBuildLogResponse], error) {
	in := req.Msg
	if in.Offset < 0 || len(in.Data) > maxLogPart {
		return nil, wire.Invalid("append build log: %d bytes at %d: at most %d at once", len(in.Data), in.Offset, maxLogPart)
	}
	b, err := d.getBuild(ctx, in.BuildId)
	if err != nil {
		return nil, err
	}
	size, err := d.appendLog(in.BuildId, in.Offset, in.Data)
	if err != nil {
		return nil, fmt.Errorf("append build log: %w", err)
	}
	d.announce(b)
	return connect.NewResponse(&murmurv1.AppendBuildLogResponse{Size: size, Cancelled: b.State == buildCancelled}), nil
}

// WatchBuild implements the API.
func (d *Depot) WatchBuild(ctx context.Context, req *connect.Request[murmurv1.WatchBuildRequest], stream *connect.ServerStream[murmurv1.WatchBuildResponse]) error {
	if req.Msg.Offset < 0 {
		return wire.Invalid("watch build: offset %d", req.Msg.Offset)
	}
	return d.watchBuild(ctx, req.Msg.Id, req.Msg.Offset, stream.Send)
}

// watchBuild sends the build and its log from offset whenever either changed, until the build has ended and its
// log was sent to the end.
func (d *Depot) watchBuild(ctx context.Context, id string, offset int64, send func(*murmurv1.WatchBuildResponse) error) error {
	if _, err := d.getBuild(ctx, id); err != nil {
		return err
	}
	var last record.Build
	for first := true; ; first = false {
		changed := d.log(id).next() // taken before looking, so that no change is missed
		b, err := d.getBuild(ctx, id)
		if err != nil {
			return err
		}
		part, err := d.readLog(id, offset)
		if err != nil {
			return fmt.Errorf("watch build: %w", err)
		}
		if first || b != last || len(part) > 0 {
			offset += int64(len(part))
			last = b
			if err := send(&murmurv1.WatchBuildResponse{Build: d.showBuild(b), Log: part}); err != nil {
				return err
			}
			continue
		}
		if final(b.State) {
			d.forgetLog(id)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(watchAgain):
		}
	}
}
