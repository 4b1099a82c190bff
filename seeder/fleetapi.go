package seeder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// fleetAPI is the handler of FleetService.
type fleetAPI struct {
	murmurv1connect.UnimplementedFleetServiceHandler

	store  record.Store
	view   *view
	roster *roster
	audit  auditor
}

// host joins what is stored of a host with what it says itself.
func (a *fleetAPI) host(h *record.Host) *murmurv1.Host {
	out := wire.Host(*h)
	p, ok := a.roster.get(h.ID)
	if !ok {
		return out
	}
	out.Connected, out.Seeder, out.Address = p.connected, p.seeder, p.address
	out.LastSeen, out.AgentVersion = wire.Time(p.lastSeen), cmp.Or(p.version, out.AgentVersion)
	out.DiskFree, out.DiskTotal = p.facts.GetDiskFree(), p.facts.GetDiskTotal()
	for _, name := range slices.Sorted(maps.Keys(p.services)) {
		out.Services = append(out.Services, p.services[name].Status)
	}
	return out
}

// ListHosts lists the hosts that a selector picks.
func (a *fleetAPI) ListHosts(_ context.Context, req *connect.Request[murmurv1.ListHostsRequest]) (*connect.Response[murmurv1.ListHostsResponse], error) {
	selector, err := fleet.Parse(req.Msg.Selector)
	if err != nil {
		return nil, wire.Invalid("%w", err)
	}
	out := &murmurv1.ListHostsResponse{}
	for _, h := range a.view.hostList() {
		if selector.Matches(wire.FleetHost(*h)) {
			out.Hosts = append(out.Hosts, a.host(h))
		}
	}
	return connect.NewResponse(out), nil
}

// GetHost reads one host by id or name.
func (a *fleetAPI) GetHost(_ context.Context, req *connect.Request[murmurv1.GetHostRequest]) (*connect.Response[murmurv1.GetHostResponse], error) {
	h, err := a.lookUp(req.Msg.Id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.GetHostResponse{Host: a.host(h)}), nil
}

func (a *fleetAPI) lookUp(name string) (*record.Host, error) {
	if h, ok := a.view.host(name); ok {
		return h, nil
	}
	var found []*record.Host
	for _, h := range a.view.hostList() {
		if h.Name == name && name != "" {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, wire.NotFound("there is no host %q", name)
	}
	return nil, wire.Invalid("%d hosts are named %q: use an id", len(found), name)
}

// UpdateHost changes labels, cordon and drain.
func (a *fleetAPI) UpdateHost(ctx context.Context, req *connect.Request[murmurv1.UpdateHostRequest]) (*connect.Response[murmurv1.UpdateHostResponse], error) {
	m := req.Msg
	h, err := a.lookUp(m.Id)
	if err != nil {
		return nil, err
	}
	act := auditedAct{caller: identity.CallerFrom(ctx), what: "host.update", object: "host/" + h.ID}
	var after record.Host
	_, err = record.Modify(ctx, auditedStore{a.store, a.audit, &act}, hostKey(h.ID), func(h *record.Host) error {
		act.before = publicHost(*h)
		if err := change(h, m); err != nil {
			return err
		}
		act.after, after = publicHost(*h), *h
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.UpdateHostResponse{Host: a.host(&after)}), nil
}

func hostKey(id string) record.Key { return record.Key{Kind: record.KindHost, ID: id} }

// publicHost is the host without its credential, as an audit record shows it.
func publicHost(h record.Host) record.Host {
	h.AnnounceKey = ""
	return h
}

func change(h *record.Host, m *murmurv1.UpdateHostRequest) error {
	labels := maps.Clone(h.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, m.SetLabels)
	for _, key := range m.RemoveLabels {
		delete(labels, key)
	}
	if err := fleet.ValidateLabels(labels); err != nil {
		return wire.Invalid("%w", err)
	}
	h.Labels = labels
	if m.Cordoned != nil {
		h.Cordoned = *m.Cordoned
	}
	if m.Drained != nil {
		h.Drained = *m.Drained
	}
	return nil
}

// RemoveHost takes a host out of the fleet and makes its certificates void.
func (a *fleetAPI) RemoveHost(ctx context.Context, req *connect.Request[murmurv1.RemoveHostRequest]) (*connect.Response[murmurv1.RemoveHostResponse], error) {
	h, err := a.lookUp(req.Msg.Id)
	if err != nil {
		return nil, err
	}
	caller := identity.CallerFrom(ctx)
	revoked := record.Revocation{By: caller.Name, Reason: "the host was removed from the fleet", At: time.Now().UTC()}
	op, err := record.PutForm(record.RevokedPeer(string(identity.KindHost), h.ID), revoked, record.Any)
	if err != nil {
		return nil, err
	}
	act := auditedAct{caller: caller, what: "host.remove", object: "host/" + h.ID, before: publicHost(*h)}
	if _, err := act.put(ctx, a.audit, a.store, record.Drop(hostKey(h.ID), record.Any), op); err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.RemoveHostResponse{}), nil
}

// maxImport bounds one import; importChunk is how many hosts are stored in one commit.
const (
	maxImport   = 20_000
	importChunk = 100
)

// ImportHosts declares hosts. Every row is checked before the first is stored.
func (a *fleetAPI) ImportHosts(ctx context.Context, req *connect.Request[murmurv1.ImportHostsRequest]) (*connect.Response[murmurv1.ImportHostsResponse], error) {
	rows := req.Msg.Hosts
	if len(rows) > maxImport {
		return nil, wire.Invalid("%d hosts at once, at most %d are allowed", len(rows), maxImport)
	}
	out := &murmurv1.ImportHostsResponse{}
	var forms []record.Host
	for i, row := range rows {
		form, known, err := a.imported(row)
		if err != nil {
			return nil, wire.Invalid("row %d: %w", i+1, err)
		}
		switch {
		case known == nil:
			out.Added++
		case known.Name == form.Name && maps.Equal(known.Labels, form.Labels):
			continue
		default:
			out.Changed++
		}
		forms = append(forms, form)
	}
	if req.Msg.DryRun {
		return connect.NewResponse(out), nil
	}
	for chunk := range slices.Chunk(forms, importChunk) {
		if err := a.storeImported(ctx, chunk); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(out), nil
}

// imported makes the form of one row, and says which host of the fleet it is, if any: by id, else by name.
func (a *fleetAPI) imported(row *murmurv1.Host) (form record.Host, known *record.Host, err error) {
	if err := errors.Join(fleet.ValidateName(row.GetName()), fleet.ValidateLabels(row.GetLabels())); err != nil {
		return form, nil, err
	}
	if known, err = a.lookUp(cmp.Or(row.Id, row.Name)); err == nil {
		form = *known
		form.Name, form.Labels = row.Name, row.Labels
		return form, known, nil
	}
	id := row.Id
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			return form, nil, fmt.Errorf("make a host id: %w", err)
		}
		id = made.String()
	}
	if err := hostKey(id).Valid(); err != nil {
		return form, nil, err
	}
	return record.Host{ID: id, Name: row.Name, Labels: row.Labels, Declared: true}, nil, nil
}

func (a *fleetAPI) storeImported(ctx context.Context, forms []record.Host) error {
	act := auditedAct{
		caller: identity.CallerFrom(ctx), what: "host.import", object: "host/" + forms[0].ID,
		after: map[string]int{"hosts": len(forms)},
	}
	var ops []record.Op
	for _, form := range forms {
		var rev int64
		stored, storedRev, err := record.Get[record.Host](ctx, a.store, hostKey(form.ID))
		switch {
		case err == nil:
			rev = storedRev
			stored.Name, stored.Labels = form.Name, form.Labels
			form = stored
		case !errors.Is(err, record.ErrNotFound):
			return err
		}
		op, err := record.PutForm(hostKey(form.ID), form, rev)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	_, err := act.put(ctx, a.audit, a.store, ops...)
	return err
}

// WatchHosts streams all hosts, then those that change.
func (a *fleetAPI) WatchHosts(ctx context.Context, _ *connect.Request[murmurv1.WatchHostsRequest], stream *connect.ServerStream[murmurv1.WatchHostsResponse]) error {
	dirty := a.roster.subscribe()
	defer a.roster.unsubscribe(dirty)
	first := &murmurv1.WatchHostsResponse{}
	for _, h := range a.view.hostList() {
		first.Hosts = append(first.Hosts, a.host(h))
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	seen := a.view.hostMap()
	for {
		changed := a.view.changed.wait()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-dirty.wake:
		case <-changed:
		}
		sleep(ctx, watchPause)
		hosts := dirty.take()
		now := a.view.hostMap()
		msg := &murmurv1.WatchHostsResponse{}
		for id, h := range now {
			if _, heard := hosts[id]; heard || seen[id] != h {
				msg.Hosts = append(msg.Hosts, a.host(h))
			}
		}
		seen = now
		if len(msg.Hosts) == 0 {
			continue
		}
		if err := stream.Send(msg); err != nil {
			return err
		}
	}
}

// hostMap is a copy of the map of hosts; a host that changed is another pointer.
func (v *view) hostMap() map[string]*record.Host {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return maps.Clone(v.hosts)
}
