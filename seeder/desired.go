package seeder

import (
	"hash/maphash"
	"slices"
	"strings"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	"github.com/murmuration/murmuration/rollout"
)

// target is what one host should have of one service, before it is put into a message.
type target struct {
	active  string
	stage   []string
	keep    []string
	wayBack bool
	retry   uint64
}

// targetLocked computes a host's target from the view alone. False means that the service is left as it is on
// this host. The view's lock is held.
//
// A host in the plan of the governing rollout does what that says. Any other host that matches the service runs
// the stable release, which is how new and returning hosts converge; a cordoned one is left alone.
func (v *view) targetLocked(svc *serviceView, h *record.Host) (target, bool) {
	if h.Drained {
		return target{}, false
	}
	if r := v.governingLocked(svc); r != nil {
		if t, in := r.targets()[h.ID]; in {
			return rolloutTarget(svc, r, h.ID, t), true
		}
	}
	if svc.rec.Stable == "" || h.Cordoned || h.Declared || !svc.selector.Matches(wire.FleetHost(*h)) {
		return target{}, false
	}
	return target{
		active: svc.rec.Stable, stage: []string{svc.rec.Stable}, keep: keepList(svc.rec.Stable, svc.rec.Previous),
		retry: v.stableRetry(svc),
	}, true
}

func rolloutTarget(svc *serviceView, r *rolloutView, host string, t rollout.Target) target {
	plan := &r.rec.State.Plan
	return target{
		active: t.Active, stage: t.Stage, wayBack: t.WayBack, retry: retryOf(&r.rec),
		keep: keepList(svc.rec.Stable, svc.rec.Previous, plan.Release, plan.Stable, plan.Hosts[r.index[host]].Previous),
	}
}

// stableRetry keeps the number a complete rollout used: completing asks nobody to try again.
func (v *view) stableRetry(svc *serviceView) uint64 {
	if r := v.rollouts[svc.rec.Name+"/"+svc.rec.Last]; r != nil {
		return retryOf(&r.rec)
	}
	return 0
}

// keepList is the sorted ids without empty ones and repeats.
func keepList(ids ...string) []string {
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == "" })
	slices.Sort(ids)
	return slices.Compact(ids)
}

// seed makes fingerprints differ between runs, as nothing may depend on their values.
var seed = maphash.MakeSeed()

// fingerprint is equal for equal targets.
func (t target) fingerprint() uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, t.active)
	maphash.WriteComparable(&h, t.wayBack)
	maphash.WriteComparable(&h, t.retry)
	for _, list := range [][]string{t.stage, t.keep} {
		maphash.WriteComparable(&h, len(list))
		for _, id := range list {
			maphash.WriteComparable(&h, id)
		}
	}
	return h.Sum64()
}

// hostCredentials is what ReleaseRefs need besides the release: where to announce as this host, and where to
// fetch from as a last resort.
type hostCredentials interface {
	announceURL(h *record.Host) string
	fallbackURLs(r *releaseView) []string
}

// desired computes everything one host should be, and the fingerprint of each service's part. It returns nil
// when the host is not in the fleet. The message is new; the byte slices in it are shared.
func (v *view) desired(host string, cred hostCredentials) (*murmurv1.Desired, map[string]uint64) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil {
		return nil, nil
	}
	d := &murmurv1.Desired{
		Order:   &murmurv1.Order{Term: v.leader.Term, Revision: v.rev},
		Stopped: v.stop.Stopped, StopReason: v.stop.Reason, Drained: h.Drained,
	}
	prints := map[string]uint64{}
	for name, svc := range v.services {
		t, ok := v.targetLocked(svc, h)
		if !ok {
			continue
		}
		prints[name] = t.fingerprint()
		d.Services = append(d.Services, v.serviceTarget(name, t, h, cred))
	}
	slices.SortFunc(d.Services, func(a, b *murmurv1.ServiceTarget) int {
		return strings.Compare(a.Service, b.Service)
	})
	return d, prints
}

func (v *view) serviceTarget(service string, t target, h *record.Host, cred hostCredentials) *murmurv1.ServiceTarget {
	out := &murmurv1.ServiceTarget{
		Service: service, Active: t.active, WayBack: t.wayBack, Keep: t.keep, Retry: t.retry,
	}
	for _, id := range t.stage {
		r := v.releases[service+"/"+id]
		if r == nil {
			v.log.Error("a release that hosts need has no record", "service", service, "release", id)
			continue
		}
		out.Stage = append(out.Stage, &murmurv1.ReleaseRef{
			Id: r.ref.Id, Manifest: r.ref.Manifest, Envelope: r.ref.Envelope, TorrentInfo: r.ref.TorrentInfo,
			FallbackUrls: cred.fallbackURLs(r), AnnounceUrl: cred.announceURL(h),
		})
	}
	return out
}

// print is the fingerprint of one service's target on one host; zero when the service is left as it is.
func (v *view) print(service, host string) uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	svc, h := v.services[service], v.hosts[host]
	if svc == nil || h == nil {
		return 0
	}
	t, ok := v.targetLocked(svc, h)
	if !ok {
		return 0
	}
	return t.fingerprint()
}
