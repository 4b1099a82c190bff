package seeder

import (
	"maps"
	"slices"
	"strings"

	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// The reads. Each returns shared values that nobody changes.

func (v *view) service(name string) (*serviceView, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	s, ok := v.services[name]
	return s, ok
}

func (v *view) release(service, id string) (*releaseView, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	r, ok := v.releases[service+"/"+id]
	return r, ok
}

func (v *view) rollout(service, id string) (*rolloutView, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	r, ok := v.rollouts[service+"/"+id]
	return r, ok
}

func (v *view) host(id string) (*record.Host, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h, ok := v.hosts[id]
	return h, ok
}

// hostName is the name of a host for people, its id when it has none.
func (v *view) hostName(id string) string {
	if h, ok := v.host(id); ok && h.Name != "" {
		return h.Name
	}
	return id
}

// hostList returns all hosts in order of id.
func (v *view) hostList() []*record.Host {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]*record.Host, 0, len(v.hosts))
	for _, h := range v.hosts {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b *record.Host) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// serviceList returns all services in order of name.
func (v *view) serviceList() []*serviceView {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]*serviceView, 0, len(v.services))
	for _, s := range v.services {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *serviceView) int { return strings.Compare(a.rec.Name, b.rec.Name) })
	return out
}

// fleetState returns the singletons and the revision they are of.
func (v *view) fleetState() (stop record.Stop, leader record.Leader, trust record.Trust, rev int64) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.stop, v.leader, v.trust, v.rev
}

// matching counts the hosts a service runs on.
func (v *view) matching(svc *serviceView) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	n := 0
	for _, h := range v.hosts {
		if svc.selector.Matches(wire.FleetHost(*h)) {
			n++
		}
	}
	return n
}

// own tells the view what this process just wrote. It becomes visible when the watch brings it, in order with
// everything else.
func (v *view) own(r *rolloutView) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.rev > v.rev {
		v.hints[r.key()] = r
	}
}

// activeRollouts returns those that are not over, or over with effects still to be performed.
func (v *view) activeRollouts() []*rolloutView {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []*rolloutView
	for _, r := range v.rollouts {
		if !r.rec.State.Phase.Terminal() || len(r.rec.State.Outbox) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// seederList returns where the seeders are, in order of id.
func (v *view) seederList() []record.Seeder {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.seedersLocked()
}

// seedersLocked is seederList for callers that hold the lock.
func (v *view) seedersLocked() []record.Seeder {
	out := make([]record.Seeder, 0, len(v.seeders))
	for _, key := range slices.Sorted(maps.Keys(v.seeders)) {
		out = append(out, *v.seeders[key])
	}
	return out
}

func (v *view) releaseByKey(key string) (*releaseView, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	r, ok := v.releases[key]
	return r, ok
}

// neededReleases lists what hosts may have to fetch soon, as "service/id": stable and previous releases, those of
// rollouts, and the newest of each service.
func (v *view) neededReleases() []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	set := map[string]struct{}{}
	add := func(service, id string) {
		if _, ok := v.releases[service+"/"+id]; ok {
			set[service+"/"+id] = struct{}{}
		}
	}
	for _, r := range v.rollouts {
		p := &r.rec.State.Plan
		add(p.Service, p.Release)
		add(p.Service, p.Stable)
	}
	newest := map[string]string{}
	for _, r := range v.releases {
		m := &r.manifest
		newest[m.Service] = max(newest[m.Service], m.ID)
	}
	for service, id := range newest {
		add(service, id)
	}
	for name, svc := range v.services {
		add(name, svc.rec.Stable)
		add(name, svc.rec.Previous)
	}
	return slices.Collect(maps.Keys(set))
}

// knowsTorrent reports whether an infohash is of one of our releases.
func (v *view) knowsTorrent(infohash string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, ok := v.torrents[infohash]
	return ok
}

// hostOfKey returns whose announce key this is.
func (v *view) hostOfKey(key string) (id, rack string, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[v.keys[key]]
	if h == nil || key == "" || h.AnnounceKey != key {
		return "", "", false
	}
	return h.ID, h.Labels[fleet.LabelDC] + "/" + h.Labels[fleet.LabelRack], true
}
