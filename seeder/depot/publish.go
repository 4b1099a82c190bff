package depot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

const (
	// maxEnvelope bounds a signature's envelope, in bytes: a statement in base64 with room for signatures.
	maxEnvelope = 2 * release.MaxStatement
	// publishTries bounds how often a commit that met another one is repeated.
	publishTries = 5
)

// found is a stored release with what identifies it.
type found struct {
	rec      record.Release
	rev      int64
	manifest release.Manifest
}

// Publish implements the API.
func (d *Depot) Publish(ctx context.Context, req *connect.Request[murmurv1.PublishRequest]) (*connect.Response[murmurv1.PublishResponse], error) {
	in := req.Msg
	if len(in.Envelope) == 0 || len(in.Envelope) > maxEnvelope {
		return nil, wire.Invalid("publish: an envelope of %d bytes, 1 to %d are allowed", len(in.Envelope), maxEnvelope)
	}
	m, err := release.ParseManifest(in.Manifest)
	if err != nil {
		return nil, wire.Invalid("publish: %w", err)
	}
	if in.BuildId != "" && release.CheckID(in.BuildId) != nil {
		return nil, wire.Invalid("publish: build %w", release.CheckID(in.BuildId))
	}
	keyID, err := d.cfg.Verifier.VerifyRelease(ctx, m, in.Manifest, in.Envelope)
	if err != nil {
		return nil, refused(err)
	}
	rel, already, err := d.publish(ctx, m, record.Release{
		Manifest: in.Manifest, Envelope: in.Envelope, KeyID: keyID, BuildID: in.BuildId, PublishedBy: d.who(ctx),
	})
	if err != nil {
		return nil, err
	}
	out, err := d.show(ctx, rel)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.PublishResponse{Release: out, Already: already}), nil
}

// refused lets a verifier's own status through; any other error of it is a refusal.
func refused(err error) error {
	if code := wire.Code(err); code != connect.CodeInternal {
		return err
	}
	return wire.Denied("publish: %w", err)
}

// publish makes the release, or finds the one that is this already.
func (d *Depot) publish(ctx context.Context, m release.Manifest, rec record.Release) (record.Release, bool, error) {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	for range publishTries {
		same, ok, err := d.same(ctx, m, rec.Manifest)
		if err != nil || ok {
			return same.rec, ok, err
		}
		if rec.Info == nil {
			if err := d.checkArtifact(ctx, m.Artifact); err != nil {
				return record.Release{}, false, err
			}
			name := m.Service + "-" + m.ID + ".tar.zst"
			if rec.Info, rec.Infohash, err = d.cfg.Info(ctx, d.Path(m.Artifact.Digest), name); err != nil {
				return record.Release{}, false, fmt.Errorf("publish: make torrent: %w", err)
			}
		}
		rec.PublishedAt = time.Now().UTC()
		err = d.commitRelease(ctx, m, rec)
		if errors.Is(err, record.ErrConflict) {
			continue // someone published meanwhile: look again
		}
		if err != nil {
			return record.Release{}, false, fmt.Errorf("publish: %w", err)
		}
		d.cfg.Log.Info("release published", "service", m.Service, "release", m.ID, "commit", m.Commit, "size", m.Artifact.Size, "key", rec.KeyID)
		if d.cfg.OnPublished != nil {
			d.cfg.OnPublished(rec)
		}
		return rec, false, nil
	}
	return record.Release{}, false, fmt.Errorf("publish: %w", record.ErrConflict)
}

// same looks for the release that m is already: by id and bytes, or by what it would run.
func (d *Depot) same(ctx context.Context, m release.Manifest, manifest []byte) (found, bool, error) {
	all, err := d.releases(ctx, m.Service)
	if err != nil {
		return found{}, false, err
	}
	recipe, err := json.Marshal(m.Recipe)
	if err != nil {
		return found{}, false, err
	}
	for _, f := range all {
		if f.manifest.ID == m.ID && !bytes.Equal(f.rec.Manifest, manifest) {
			return found{}, false, wire.Exists("publish: release %s exists with another manifest: make a new id", m.ID)
		}
		if f.manifest.ID == m.ID {
			return f, true, nil
		}
	}
	for _, f := range all {
		if f.manifest.Commit != m.Commit || f.manifest.Artifact.Digest != m.Artifact.Digest {
			continue
		}
		if other, err := json.Marshal(f.manifest.Recipe); err == nil && bytes.Equal(other, recipe) {
			return f, true, nil
		}
	}
	return found{}, false, nil
}

// checkArtifact checks that the artifact is here and is everything the manifest and its own index claim. Its
// digest was compared when it came in.
func (d *Depot) checkArtifact(ctx context.Context, a release.Artifact) error {
	f, err := d.Open(a.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return wire.Precondition("publish: the artifact %s is not here: upload it first", a.Digest)
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if info.Size() != a.Size {
		return wire.Invalid("publish: the artifact has %d bytes, the manifest says %d", info.Size(), a.Size)
	}
	idx, err := artifact.ReadIndex(f, a)
	if err == nil {
		err = artifact.Verify(ctx, f, a, idx)
	}
	if errors.Is(err, artifact.ErrCorrupt) {
		return wire.Invalid("publish: %w", err)
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// commitRelease writes the release, and its service if this is the service's first.
func (d *Depot) commitRelease(ctx context.Context, m release.Manifest, rec record.Release) error {
	op, err := record.PutForm(releaseKey(m.Service, m.ID), rec, 0)
	if err != nil {
		return err
	}
	ops := []record.Op{op}
	service := record.Key{Kind: record.KindService, ID: m.Service}
	_, err = d.cfg.Store.Get(ctx, service)
	if errors.Is(err, record.ErrNotFound) {
		op, err = record.PutForm(service, record.Service{Name: m.Service, Selector: m.Recipe.Selector, UpdatedAt: rec.PublishedAt}, 0)
		ops = append(ops, op)
	}
	if err != nil {
		return err
	}
	_, err = d.cfg.Audit.Commit(ctx, "release.publish", m.Service+"/"+m.ID, m.Subject, nil, audited(m, rec), ops...)
	return err
}

// auditedRelease is what audit records show of a release.
type auditedRelease struct {
	ID       string         `json:"id"`
	Commit   string         `json:"commit"`
	Ref      string         `json:"ref,omitempty"`
	Author   string         `json:"author,omitempty"`
	Artifact release.Digest `json:"artifact"`
	KeyID    string         `json:"key_id"`
	Pinned   bool           `json:"pinned,omitempty"`
}

func audited(m release.Manifest, rec record.Release) auditedRelease {
	return auditedRelease{
		ID: m.ID, Commit: m.Commit, Ref: m.Ref, Author: m.Author,
		Artifact: m.Artifact.Digest, KeyID: rec.KeyID, Pinned: rec.Pinned,
	}
}

func releaseKey(service, id string) record.Key {
	return record.Key{Kind: record.KindRelease, ID: service + "/" + id}
}
