// Package builder assembles a builder from this machine's own state: its signing key, its queue and work folders,
// and the control plane it publishes to. Hooks and `murmur release build` run the same code through it.
//
// The state folder ($MURMUR_STATE, else murmur below the user's state folder) holds builder.key (0600), the queues, the work
// folders and a cache that builds may keep between runs, handed to them as MURMUR_CACHE.
package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/build"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/identity"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// StateDir is where this user's builder keeps its state.
func StateDir(getenv func(string) string) (string, error) {
	if dir := getenv("MURMUR_STATE"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "murmur"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("neither MURMUR_STATE nor HOME is set: say where the builder may keep its state")
	}
	return filepath.Join(home, ".local", "state", "murmur"), nil
}

// Key loads the builder's signing key, or makes it.
func Key(state string) (*identity.Signer, error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	return identity.LoadOrNewSigner(filepath.Join(state, "builder.key"))
}

// New makes a builder that publishes through c. Logs go to logs.
func New(state, logs string, c *client.Client, log *slog.Logger) (*build.Builder, error) {
	key, err := Key(state)
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(state, "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, err
	}
	work := filepath.Join(state, "work")
	return &build.Builder{
		Work: work, Logs: logs, Signer: signer{key}, Publisher: publisher{c}, Log: log,
		Env: map[string]string{"MURMUR_CACHE": cache}, Writable: []string{cache}, Hide: []string{state},
		Previous: func(ctx context.Context, service string) (string, error) { return previous(ctx, c, service) },
	}, nil
}

// previous is the commit of the newest release, where the change record of the next one starts.
func previous(ctx context.Context, c *client.Client, service string) (string, error) {
	resp, err := c.Releases.GetRelease(ctx, connect.NewRequest(&pb.GetReleaseRequest{Service: service, Id: "latest"}))
	if connect.CodeOf(err) == connect.CodeNotFound {
		return "", nil
	}
	if err != nil {
		return "", reachable(err)
	}
	return resp.Msg.Release.Commit, nil
}

type signer struct{ key *identity.Signer }

func (s signer) KeyID() string                           { return s.key.KeyID() }
func (s signer) SignStatement(st []byte) ([]byte, error) { return s.key.SignRelease(st) }

// publisher is the control plane as internal/build sees it.
type publisher struct{ c *client.Client }

func (p publisher) Upload(ctx context.Context, digest release.Digest, path string, progress func(done, total int64)) error {
	return reachable(p.c.UploadArtifact(ctx, string(digest), path, progress))
}

func (p publisher) Publish(ctx context.Context, manifest, envelope []byte, buildID string) (string, bool, error) {
	resp, err := p.c.Releases.Publish(ctx, connect.NewRequest(&pb.PublishRequest{Manifest: manifest, Envelope: envelope, BuildId: buildID}))
	if err != nil {
		return "", false, reachable(err)
	}
	return resp.Msg.Release.Id, resp.Msg.Already, nil
}

func (p publisher) Report(ctx context.Context, b build.Build) (bool, error) {
	resp, err := p.c.Releases.ReportBuild(ctx, connect.NewRequest(&pb.ReportBuildRequest{Build: toProto(b)}))
	if err != nil {
		return false, reachable(err)
	}
	return resp.Msg.Build.State == pb.BuildState_BUILD_STATE_CANCELLED, nil
}

func (p publisher) AppendLog(ctx context.Context, service, buildID string, off int64, data []byte) (bool, error) {
	resp, err := p.c.Releases.AppendBuildLog(ctx, connect.NewRequest(&pb.AppendBuildLogRequest{Service: service, BuildId: buildID, Offset: off, Data: data}))
	if err != nil {
		return false, reachable(err)
	}
	return resp.Msg.Cancelled, nil
}

// reachable marks the errors after which trying again makes sense.
func reachable(err error) error {
	if err == nil {
		return nil
	}
	_, noConnection := errors.AsType[*client.ConnectError](err)
	if code := connect.CodeOf(err); noConnection || code == connect.CodeUnavailable || code == connect.CodeDeadlineExceeded {
		return fmt.Errorf("%w: %s", build.ErrUnreachable, client.Explain(err))
	}
	return err
}
