package builder

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/murmuration/murmuration/internal/build"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

var states = map[build.State]pb.BuildState{
	build.Queued: pb.BuildState_BUILD_STATE_QUEUED, build.Running: pb.BuildState_BUILD_STATE_RUNNING,
	build.Published: pb.BuildState_BUILD_STATE_PUBLISHED, build.Failed: pb.BuildState_BUILD_STATE_FAILED,
	build.Cancelled: pb.BuildState_BUILD_STATE_CANCELLED,
}

func toProto(b build.Build) *pb.Build {
	return &pb.Build{
		Id: b.ID, Service: b.Service, Repo: b.Repo, Commit: b.Commit, Ref: b.Ref, State: states[b.State],
		ReleaseId: b.ReleaseID, Error: b.Error, Builder: b.Builder, LogSize: b.LogSize,
		QueuedAt: stamp(b.QueuedAt), StartedAt: stamp(b.StartedAt), FinishedAt: stamp(b.FinishedAt),
	}
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
