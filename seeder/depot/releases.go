package depot

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

const (
	defaultList = 20
	maxList     = 200
	// minPrefix is the shortest prefix of an id or a commit that names a release.
	minPrefix = 4
)

// releases returns all releases of a service, oldest first.
func (d *Depot) releases(ctx context.Context, service string) ([]found, error) {
	entries, _, err := record.List[record.Release](ctx, d.cfg.Store, record.KindRelease, service+"/")
	if err != nil {
		return nil, fmt.Errorf("releases of %s: %w", service, err)
	}
	return decode(entries)
}

// decode parses the manifests of stored releases.
func decode(entries []record.Entry[record.Release]) ([]found, error) {
	all := make([]found, len(entries))
	for i, e := range entries {
		m, err := release.ParseManifest(e.Form.Manifest)
		if err != nil {
			return nil, fmt.Errorf("stored release %s: %w", e.Key.ID, err)
		}
		all[i] = found{rec: e.Form, rev: e.Rev, manifest: m}
	}
	return all, nil
}

// service returns a service's record; the zero record when it has none.
func (d *Depot) service(ctx context.Context, name string) (record.Service, error) {
	s, _, err := record.Get[record.Service](ctx, d.cfg.Store, record.Key{Kind: record.KindService, ID: name})
	if errors.Is(err, record.ErrNotFound) {
		return record.Service{}, nil
	}
	return s, err
}

// Resolve finds a release of a service by what people call it: an id, a unique prefix of at least 4 characters of
// an id or a commit, or "stable", "previous" or "latest". Several releases of one commit are taken as the
// newest of them. Its errors are wire errors.
func (d *Depot) Resolve(ctx context.Context, service, name string) (record.Release, release.Manifest, error) {
	f, err := d.resolve(ctx, service, name)
	return f.rec, f.manifest, err
}

func (d *Depot) resolve(ctx context.Context, service, name string) (found, error) {
	if err := release.CheckService(service); err != nil {
		return found{}, wire.Invalid("service %w", err)
	}
	word := name
	if name == "stable" || name == "previous" {
		s, err := d.service(ctx, service)
		if err != nil {
			return found{}, err
		}
		if name = s.Stable; word == "previous" {
			name = s.Previous
		}
		if name == "" {
			return found{}, wire.NotFound("service %s has no %s release yet", service, word)
		}
	}
	if release.CheckID(name) == nil {
		return d.byID(ctx, service, name)
	}
	all, err := d.releases(ctx, service)
	if err != nil {
		return found{}, err
	}
	if name == "latest" {
		if len(all) == 0 {
			return found{}, wire.NotFound("service %s has no release yet", service)
		}
		return all[len(all)-1], nil
	}
	return byPrefix(all, service, name)
}

func (d *Depot) byID(ctx context.Context, service, id string) (found, error) {
	key := releaseKey(service, id)
	rec, rev, err := record.Get[record.Release](ctx, d.cfg.Store, key)
	if errors.Is(err, record.ErrNotFound) {
		return found{}, wire.NotFound("service %s has no release %s", service, id)
	}
	if err != nil {
		return found{}, err
	}
	all, err := decode([]record.Entry[record.Release]{{Key: key, Rev: rev, Form: rec}})
	if err != nil {
		return found{}, err
	}
	return all[0], nil
}

// byPrefix finds the one release, or the newest of one commit, that a prefix names.
func byPrefix(all []found, service, prefix string) (found, error) {
	if len(prefix) < minPrefix {
		return found{}, wire.Invalid("release %q: give an id, at least %d characters of an id or a commit, or stable, previous or latest", prefix, minPrefix)
	}
	var match []found
	for _, f := range all {
		if strings.HasPrefix(f.manifest.ID, prefix) || strings.HasPrefix(f.manifest.Commit, prefix) {
			match = append(match, f)
		}
	}
	if len(match) == 0 {
		return found{}, wire.NotFound("service %s has no release %.80q", service, prefix)
	}
	newest := match[len(match)-1]
	for _, f := range match {
		if f.manifest.Commit != newest.manifest.Commit {
			return found{}, wire.Invalid("release %q of %s is ambiguous: %s and %s begin so", prefix, service, f.manifest.ID, newest.manifest.ID)
		}
	}
	return newest, nil
}

// show converts a release for the API.
func (d *Depot) show(ctx context.Context, rec record.Release) (*murmurv1.Release, error) {
	m, err := release.ParseManifest(rec.Manifest)
	if err != nil {
		return nil, fmt.Errorf("stored release: %w", err)
	}
	s, err := d.service(ctx, m.Service)
	if err != nil {
		return nil, err
	}
	return wire.Release(rec, &m, s.Stable == m.ID), nil
}

// GetRelease implements the API.
func (d *Depot) GetRelease(ctx context.Context, req *connect.Request[murmurv1.GetReleaseRequest]) (*connect.Response[murmurv1.GetReleaseResponse], error) {
	f, err := d.resolve(ctx, req.Msg.Service, req.Msg.Id)
	if err != nil {
		return nil, err
	}
	out, err := d.show(ctx, f.rec)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.GetReleaseResponse{Release: out}), nil
}

// ListReleases implements the API.
func (d *Depot) ListReleases(ctx context.Context, req *connect.Request[murmurv1.ListReleasesRequest]) (*connect.Response[murmurv1.ListReleasesResponse], error) {
	in := req.Msg
	if err := release.CheckService(in.Service); err != nil {
		return nil, wire.Invalid("service %w", err)
	}
	before := ""
	if in.Before != "" {
		if err := release.CheckID(in.Before); err != nil {
			return nil, wire.Invalid("before: %w", err)
		}
		before = releaseKey(in.Service, in.Before).ID
	}
	items, err := d.cfg.Store.Page(ctx, record.KindRelease, in.Service+"/", before, listLimit(in.Limit), true)
	if err != nil {
		return nil, err
	}
	entries, err := record.DecodeItems[record.Release](items)
	if err != nil {
		return nil, err
	}
	all, err := decode(entries)
	if err != nil {
		return nil, err
	}
	s, err := d.service(ctx, in.Service)
	if err != nil {
		return nil, err
	}
	out := &murmurv1.ListReleasesResponse{}
	for _, f := range all {
		out.Releases = append(out.Releases, wire.Release(f.rec, &f.manifest, s.Stable == f.manifest.ID))
	}
	return connect.NewResponse(out), nil
}

func listLimit(n int32) int {
	if n <= 0 {
		return defaultList
	}
	return int(min(n, maxList))
}

// PinRelease implements the API.
func (d *Depot) PinRelease(ctx context.Context, req *connect.Request[murmurv1.PinReleaseRequest]) (*connect.Response[murmurv1.PinReleaseResponse], error) {
	f, err := d.resolve(ctx, req.Msg.Service, req.Msg.Id)
	if err != nil {
		return nil, err
	}
	if f.rec.Pinned != req.Msg.Pinned {
		before := audited(f.manifest, f.rec)
		f.rec.Pinned = req.Msg.Pinned
		op, err := record.PutForm(releaseKey(f.manifest.Service, f.manifest.ID), f.rec, f.rev)
		if err != nil {
			return nil, err
		}
		what := "release.pin"
		if !f.rec.Pinned {
			what = "release.unpin"
		}
		object := f.manifest.Service + "/" + f.manifest.ID
		if _, err := d.cfg.Audit.Commit(ctx, what, object, "", before, audited(f.manifest, f.rec), op); err != nil {
			return nil, err
		}
	}
	out, err := d.show(ctx, f.rec)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.PinReleaseResponse{Release: out}), nil
}
