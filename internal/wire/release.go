package wire

import (
	"encoding/json"

	"google.golang.org/protobuf/types/known/durationpb"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/release"
)

// Release converts a stored release and its decoded manifest. Stable says whether it is the stable release of
// its service now.
func Release(r record.Release, m *release.Manifest, stable bool) *murmurv1.Release {
	out := &murmurv1.Release{
		Id: m.ID, Service: m.Service, Commit: m.Commit, Ref: m.Ref, Repo: m.Repo, Author: m.Author,
		Subject: m.Subject, Reviewers: append([]string(nil), m.Reviewers...), CreatedAt: Time(m.CreatedAt),
		ArtifactDigest: string(m.Artifact.Digest), ArtifactSize: m.Artifact.Size, RawSize: m.Artifact.RawSize,
		Files: int32(m.Artifact.Files), Chunks: int32(m.Artifact.Chunks),
		SignedBy: r.KeyID, Pinned: r.Pinned, Infohash: r.Infohash, Stable: stable,
	}
	for _, c := range m.Changes {
		out.Changes = append(out.Changes, &murmurv1.Change{
			Commit: c.Commit, Author: c.Author, Reviewers: append([]string(nil), c.Reviewers...),
			Subject: c.Subject, Added: int32(c.Added), Removed: int32(c.Removed),
		})
	}
	if recipe, err := json.Marshal(m.Recipe); err == nil {
		out.RecipeJson = string(recipe)
	}
	return out
}

// Service converts a stored service; hosts is how many hosts match its selector now.
func Service(s record.Service, hosts int) *murmurv1.Service {
	out := &murmurv1.Service{
		Name: s.Name, StableRelease: s.Stable, PreviousRelease: s.Previous, ActiveRollout: s.Active,
		QueuedRollouts: append([]string(nil), s.Queue...), Selector: s.Selector, Hosts: int32(hosts),
		UpdatedAt: Time(s.UpdatedAt),
	}
	if s.Lock != nil {
		out.Lock = &murmurv1.Lock{By: s.Lock.By, Reason: s.Lock.Reason, Since: Time(s.Lock.Since)}
	}
	return out
}

// Stop converts the emergency stop.
func Stop(s record.Stop) *murmurv1.StopState {
	return &murmurv1.StopState{Stopped: s.Stopped, By: s.By, Reason: s.Reason, Since: Time(s.Since)}
}

// Scripts converts stored script output.
func Scripts(s record.Scripts) []*murmurv1.ScriptOutput {
	out := make([]*murmurv1.ScriptOutput, 0, len(s.Outputs))
	for _, o := range s.Outputs {
		out = append(out, &murmurv1.ScriptOutput{
			Phase: o.Phase, Name: o.Name, ExitCode: o.ExitCode, Output: o.Output,
			Truncated: o.Truncated, Took: durationpb.New(o.Took), Error: o.Error,
		})
	}
	return out
}
