package seeder

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/rollout"
)

// watchedKinds are the records every seeder follows. All that agents are told is computed from these alone,
// so every seeder tells the same.
var watchedKinds = []record.Kind{
	record.KindService, record.KindRelease, record.KindRollout, record.KindHost, record.KindFleet,
}

// view is a seeder's copy of the records it follows, kept up to date by one watch. The values it hands out are
// replaced, never changed: readers may keep them. Safe for concurrent use.
//
// Rollouts are big and many, so only those that matter are held: every one that is not terminal, and those a
// service record names.
type view struct {
	log *slog.Logger

	mu       sync.RWMutex
	rev      int64
	services map[string]*serviceView
	releases map[string]*releaseView // by "service/id"
	rollouts map[string]*rolloutView // by "service/id"
	hosts    map[string]*record.Host
	stop     record.Stop
	leader   record.Leader
	trust    record.Trust
	seeders  map[string]*record.Seeder // by "seeder/id"
	torrents map[string]string         // "service/id" by infohash
	keys     map[string]string         // host id by announce key

	// hints are rollouts this process wrote and the watch has not brought yet: they need no decoding.
	hints map[string]*rolloutView

	ready   chan struct{}
	once    sync.Once
	changed notifier
	// onChange is called after each batch, by the watch's goroutine, without the lock.
	onChange func(delta)
}

// delta says what a batch changed.
type delta struct {
	all      bool                // anything may have changed
	services map[string]struct{} // whose targets may have changed
	hosts    map[string]struct{}
	removed  []string // hosts that are gone
	fleet    bool     // stop, leader or trust
	releases []string // "service/id" of releases that came or changed
}

type serviceView struct {
	rec      record.Service
	rev      int64
	selector fleet.Selector
}

type releaseView struct {
	rec      record.Release
	manifest release.Manifest
	// ref is what every host is sent of it; shared, never changed.
	ref *murmurv1.ReleaseRef
}

type rolloutView struct {
	rec     record.Rollout
	rev     int64
	index   map[string]int                   // host id to its place in the plan
	targets func() map[string]rollout.Target // by host id; computed when first asked for
}

func newView(log *slog.Logger) *view {
	v := &view{log: log, hints: map[string]*rolloutView{}, ready: make(chan struct{}), onChange: func(delta) {}}
	v.clear()
	return v
}

func (v *view) clear() {
	v.services, v.releases = map[string]*serviceView{}, map[string]*releaseView{}
	v.rollouts, v.hosts = map[string]*rolloutView{}, map[string]*record.Host{}
	v.seeders, v.torrents, v.keys = map[string]*record.Seeder{}, map[string]string{}, map[string]string{}
	v.stop, v.leader, v.trust = record.Stop{}, record.Leader{}, record.Trust{}
}

// run follows the store until ctx ends.
func (v *view) run(ctx context.Context, store record.Store) error {
	return store.Watch(ctx, watchedKinds, func(b record.Batch) error {
		v.apply(b)
		return nil
	})
}

// apply takes one batch in. A record that does not decode is logged and leaves what was known of it.
func (v *view) apply(b record.Batch) {
	d := delta{all: b.Reset, services: map[string]struct{}{}, hosts: map[string]struct{}{}}
	v.mu.Lock()
	if b.Reset {
		v.clear()
	}
	for _, c := range b.Changes {
		if err := v.applyOne(c, &d); err != nil {
			v.log.Error("a record was ignored", "record", c.Key.String(), "err", err)
		}
	}
	v.rev = b.Rev
	v.dropOldRollouts()
	v.mu.Unlock()
	v.once.Do(func() { close(v.ready) })
	v.onChange(d)
	v.changed.changed()
}

func (v *view) applyOne(c record.Change, d *delta) error {
	switch c.Key.Kind {
	case record.KindService:
		d.services[c.Key.ID] = struct{}{}
		return v.applyService(c)
	case record.KindRelease:
		service, _, _ := strings.Cut(c.Key.ID, "/")
		d.services[service] = struct{}{}
		d.releases = append(d.releases, c.Key.ID)
		return v.applyRelease(c)
	case record.KindRollout:
		service, _, _ := strings.Cut(c.Key.ID, "/")
		d.services[service] = struct{}{}
		return v.applyRollout(c)
	case record.KindHost:
		d.hosts[c.Key.ID] = struct{}{}
		if c.Deleted {
			d.removed = append(d.removed, c.Key.ID)
		}
		return v.applyHost(c)
	}
	d.fleet = d.fleet || c.Key == record.StopKey || c.Key == record.LeaderKey || c.Key == record.TrustKey
	return v.applyFleet(c)
}

// applyForm decodes a change into a map of pointers.
func applyForm[T record.Form](into map[string]*T, c record.Change) error {
	if c.Deleted {
		delete(into, c.Key.ID)
		return nil
	}
	form, err := record.Decode[T](c.Value)
	if err == nil {
		into[c.Key.ID] = &form
	}
	return err
}

func (v *view) applyHost(c record.Change) error {
	if old := v.hosts[c.Key.ID]; old != nil {
		delete(v.keys, old.AnnounceKey)
	}
	if err := applyForm(v.hosts, c); err != nil {
		return err
	}
	if h := v.hosts[c.Key.ID]; h != nil && h.AnnounceKey != "" {
		v.keys[h.AnnounceKey] = h.ID
	}
	return nil
}

func (v *view) applyService(c record.Change) error {
	if c.Deleted {
		delete(v.services, c.Key.ID)
		return nil
	}
	rec, err := record.Decode[record.Service](c.Value)
	if err != nil {
		return err
	}
	selector, err := fleet.Parse(rec.Selector)
	if err != nil {
		return fmt.Errorf("selector of service %s: %w", rec.Name, err)
	}
	v.services[c.Key.ID] = &serviceView{rec: rec, rev: c.Rev, selector: selector}
	return nil
}

func (v *view) applyRelease(c record.Change) error {
	if old := v.releases[c.Key.ID]; old != nil && v.torrents[old.rec.Infohash] == c.Key.ID {
		delete(v.torrents, old.rec.Infohash)
	}
	if c.Deleted {
		delete(v.releases, c.Key.ID)
		return nil
	}
	rec, err := record.Decode[record.Release](c.Value)
	if err != nil {
		return err
	}
	m, err := release.ParseManifest(rec.Manifest)
	if err != nil {
		return err
	}
	v.torrents[rec.Infohash] = c.Key.ID
	v.releases[c.Key.ID] = &releaseView{rec: rec, manifest: m, ref: &murmurv1.ReleaseRef{
		Id: m.ID, Manifest: rec.Manifest, Envelope: rec.Envelope, TorrentInfo: rec.Info,
	}}
	return nil
}

func (v *view) applyRollout(c record.Change) error {
	old := v.rollouts[c.Key.ID]
	if c.Deleted {
		delete(v.rollouts, c.Key.ID)
		return nil
	}
	if h := v.hints[c.Key.ID]; h != nil && h.rev == c.Rev {
		v.rollouts[c.Key.ID] = h
		delete(v.hints, c.Key.ID)
		return nil
	}
	rec, err := record.Decode[record.Rollout](c.Value)
	if err != nil {
		return err
	}
	var index map[string]int
	if old != nil {
		index = old.index // the plan is frozen
	}
	v.rollouts[c.Key.ID] = newRolloutView(rec, c.Rev, index)
	return nil
}

func newRolloutView(rec record.Rollout, rev int64, index map[string]int) *rolloutView {
	if index == nil {
		index = make(map[string]int, len(rec.State.Plan.Hosts))
		for i, h := range rec.State.Plan.Hosts {
			index[h.ID] = i
		}
	}
	return &rolloutView{rec: rec, rev: rev, index: index, targets: sync.OnceValue(func() map[string]rollout.Target {
		return maps.Collect(rec.State.Targets())
	})}
}

func (r *rolloutView) key() string { return r.rec.State.Plan.Service + "/" + r.rec.State.Plan.ID }

func (v *view) applyFleet(c record.Change) error {
	var err error
	switch c.Key {
	case record.StopKey:
		v.stop, err = decodeOr(c, v.stop)
	case record.LeaderKey:
		v.leader, err = decodeOr(c, v.leader)
	case record.TrustKey:
		v.trust, err = decodeOr(c, v.trust)
	default:
		if strings.HasPrefix(c.Key.ID, "seeder/") {
			err = applyForm(v.seeders, c)
		}
	}
	return err
}

// decodeOr decodes a change; a deletion is the zero form, an error keeps old.
func decodeOr[T record.Form](c record.Change, old T) (T, error) {
	if c.Deleted {
		var zero T
		return zero, nil
	}
	form, err := record.Decode[T](c.Value)
	if err != nil {
		return old, err
	}
	return form, nil
}

// dropOldRollouts forgets terminal rollouts no service record names.
func (v *view) dropOldRollouts() {
	for key, r := range v.rollouts {
		id := r.rec.State.Plan.ID
		if !r.rec.State.Phase.Terminal() || len(r.rec.State.Outbox) > 0 {
			continue
		}
		svc := v.services[r.rec.State.Plan.Service]
		if svc == nil || (svc.rec.Active != id && svc.rec.Last != id && !slices.Contains(svc.rec.Queue, id)) {
			delete(v.rollouts, key)
		}
	}
}

// governing is the rollout whose targets hold for the hosts of its plan: the active one once it has begun,
// else the last one unless that is complete. Nil when the stable release alone decides. The lock is held.
func (v *view) governingLocked(svc *serviceView) *rolloutView {
	name := svc.rec.Name
	if r := v.rollouts[name+"/"+svc.rec.Active]; r != nil && begun(&r.rec.State) {
		return r
	}
	r := v.rollouts[name+"/"+svc.rec.Last]
	if r == nil || r.rec.State.Phase == rollout.Complete {
		return nil
	}
	return r
}

// begun reports whether a rollout has told its hosts anything.
func begun(s *rollout.State) bool {
	return s.Phase != rollout.Pending && touched(s)
}

// touched reports whether any host was told to do something. A rollout that ended before that leaves no trace.
func touched(s *rollout.State) bool {
	return slices.ContainsFunc(s.Hosts, func(h rollout.HostState) bool { return h.Phase != rollout.WaitingHost })
}

// retryOf is the number that makes agents try again what failed in an earlier rollout.
func retryOf(r *record.Rollout) uint64 {
	h := fnv.New64a()
	h.Write([]byte(r.State.Plan.ID))
	return h.Sum64() + r.Retry
}
