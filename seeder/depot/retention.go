package depot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/release"
)

const (
	// grace is how long a file that no record names is kept: a publish may be on its way.
	grace = 24 * time.Hour
	// partGrace is how long an upload that stopped may be gone on with.
	partGrace = 7 * 24 * time.Hour
	// keepBuilds is how many build records are kept, of all services together.
	keepBuilds = 1000
	// dropBatch is how many build records are dropped in one commit.
	dropBatch = 100
)

// Retain drops the releases and build records that nothing needs; see [release.Keep]. Referenced are the stable
// and the previous release, the newest Keep of the service's history, and whatever a rollout that has not
// ended names. Each drop is one audited commit that fails, harmlessly, when the service's slot or the release
// changed meanwhile. It returns how many releases were dropped.
func (d *Depot) Retain(ctx context.Context) (dropped int, err error) {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	all, _, err := record.List[record.Release](ctx, d.cfg.Store, record.KindRelease, "")
	if err != nil {
		return 0, fmt.Errorf("retain: %w", err)
	}
	byService := map[string]map[string]record.Entry[record.Release]{}
	for _, e := range all {
		service, id, _ := strings.Cut(e.Key.ID, "/")
		if byService[service] == nil {
			byService[service] = map[string]record.Entry[record.Release]{}
		}
		byService[service][id] = e
	}
	for service, entries := range byService {
		n, err := d.retainService(ctx, service, entries)
		if dropped += n; err != nil {
			return dropped, fmt.Errorf("retain releases of %s: %w", service, err)
		}
	}
	return dropped, d.retainBuilds(ctx)
}

func (d *Depot) retainService(ctx context.Context, service string, entries map[string]record.Entry[record.Release]) (int, error) {
	var metas []release.Meta
	for id, e := range entries {
		metas = append(metas, release.Meta{ID: id, PublishedAt: e.Form.PublishedAt, Pinned: e.Form.Pinned})
	}
	if len(metas) <= d.cfg.Keep {
		return 0, nil
	}
	serviceKey := record.Key{Kind: record.KindService, ID: service}
	s, rev, err := record.Get[record.Service](ctx, d.cfg.Store, serviceKey)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return 0, err
	}
	referenced, err := d.referenced(ctx, service, s)
	if err != nil {
		return 0, err
	}
	dropped := 0
	for _, id := range release.Keep(metas, d.cfg.Keep, referenced) {
		e := entries[id]
		// The service's revision guards against a rollout that starts with this very release.
		_, err := d.cfg.Audit.Commit(ctx, "release.drop", service+"/"+id, "retention", nil, nil,
			record.Drop(e.Key, e.Rev), record.Check(serviceKey, rev))
		if errors.Is(err, record.ErrConflict) {
			return dropped, nil // the next run sees what changed
		}
		if err != nil {
			return dropped, err
		}
		dropped++
		d.cfg.Log.Info("release dropped", "service", service, "release", id, "published", e.Form.PublishedAt)
		if d.cfg.OnDropped != nil {
			d.cfg.OnDropped(e.Form)
		}
	}
	return dropped, nil
}

// referenced returns the ids of a service's releases that something names.
func (d *Depot) referenced(ctx context.Context, service string, s record.Service) (map[string]bool, error) {
	ids := map[string]bool{s.Stable: true, s.Previous: true}
	for _, id := range s.History[:min(len(s.History), d.cfg.Keep)] {
		ids[id] = true
	}
	rollouts, _, err := record.List[record.Rollout](ctx, d.cfg.Store, record.KindRollout, service+"/")
	if err != nil {
		return nil, err
	}
	for _, e := range rollouts {
		state := e.Form.RolloutState()
		_, rolloutID, _ := strings.Cut(e.Key.ID, "/")
		if state.Phase.Terminal() && rolloutID != s.Last {
			continue
		}
		ids[state.Plan.Release], ids[state.Plan.Stable] = true, true
		for _, h := range state.Plan.Hosts {
			ids[h.Previous] = true
		}
	}
	return ids, nil
}

// retainBuilds drops the oldest build records beyond keepBuilds. That is housekeeping of what builders reported,
// not a decision of anyone, so it is not audited.
func (d *Depot) retainBuilds(ctx context.Context) error {
	builds, _, err := d.cfg.Store.List(ctx, record.KindBuild, "")
	if err != nil {
		return fmt.Errorf("retain builds: %w", err)
	}
	var ops []record.Op
	for i := 0; i < len(builds)-keepBuilds; i++ {
		ops = append(ops, record.Drop(builds[i].Key, builds[i].Rev))
		if len(ops) == dropBatch || i == len(builds)-keepBuilds-1 {
			if _, err := d.cfg.Store.Commit(ctx, ops...); err != nil && !errors.Is(err, record.ErrConflict) {
				return fmt.Errorf("retain builds: %w", err)
			}
			ops = nil
		}
	}
	return nil
}

// Clean removes files that no record names any more: artifacts a day after they came, logs likewise, and parts of
// uploads that nobody went on with for a week. What it removes can be uploaded again.
func (d *Depot) Clean(ctx context.Context) error {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	releases, _, err := record.List[record.Release](ctx, d.cfg.Store, record.KindRelease, "")
	if err != nil {
		return fmt.Errorf("clean: %w", err)
	}
	all, err := decode(releases)
	if err != nil {
		return fmt.Errorf("clean: %w", err) // better keep everything than remove what could not be read
	}
	builds, _, err := d.cfg.Store.List(ctx, record.KindBuild, "")
	if err != nil {
		return fmt.Errorf("clean: %w", err)
	}
	needed := map[string]bool{}
	for _, f := range all {
		needed[artifactName(f.manifest.Artifact.Digest)] = true
	}
	for _, item := range builds {
		needed[logName(item.Key.ID)] = true
	}
	return errors.Join(
		d.cleanDir(artifactDir, needed, grace),
		d.cleanDir(logDir, needed, grace),
		d.cleanUploads(),
	)
}

// cleanDir removes the files of dir that are not needed and have not changed for the time given.
func (d *Depot) cleanDir(dir string, needed map[string]bool, age time.Duration) error {
	entries, err := fs.ReadDir(d.root.FS(), dir)
	if err != nil {
		return fmt.Errorf("clean: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || needed[dir+"/"+e.Name()] || time.Since(info.ModTime()) < age {
			continue
		}
		if err := durable.Remove(d.root, dir+"/"+e.Name()); err != nil {
			return fmt.Errorf("clean: %w", err)
		}
		d.cfg.Log.Info("unneeded file removed", "file", dir+"/"+e.Name(), "bytes", info.Size())
	}
	return nil
}

// cleanUploads forgets uploads that nobody goes on with, so that they do not count against the limit, and removes
// old parts. A part that is being written is as young as its last byte.
func (d *Depot) cleanUploads() error {
	d.mu.Lock()
	for digest, u := range d.uploads {
		if time.Since(u.seen) > time.Hour && u.writing.TryLock() {
			delete(d.uploads, digest)
			u.writing.Unlock()
		}
	}
	d.mu.Unlock()
	return d.cleanDir(uploadDir, nil, partGrace)
}
