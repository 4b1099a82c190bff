package seeder

import (
	"maps"
	"slices"
	"sync"
	"time"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// roster is what hosts say about themselves: the newest report of each, whichever seeder the host is attached
// to. A seeder knows its own hosts; the leader knows all. It is memory only: agents say everything again when
// they attach. Safe for concurrent use; messages handed out are shared and must not be changed.
type roster struct {
	mu    sync.RWMutex
	hosts map[string]*presence
	subs  map[*dirtySet]struct{}
}

// presence is one host's entry. Its messages are replaced, never changed.
type presence struct {
	seeder    string
	connected bool
	lastSeen  time.Time
	version   string
	address   string
	facts     *murmurv1.HostFacts
	services  map[string]*murmurv1.ServiceReport
	stages    map[string]*murmurv1.StageProgress
}

// maxServicesPerHost and maxStagesPerHost bound what one host can make a seeder remember.
const (
	maxServicesPerHost = 128
	maxStagesPerHost   = 16
)

func newRoster() *roster {
	return &roster{hosts: map[string]*presence{}, subs: map[*dirtySet]struct{}{}}
}

// subscribe returns a set that is marked with every host that changes from now on. Give it back with
// unsubscribe.
func (r *roster) subscribe() *dirtySet {
	d := newDirtySet()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[d] = struct{}{}
	return d
}

func (r *roster) unsubscribe(d *dirtySet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.subs, d)
}

// update changes one host's entry under the lock, creating it when needed, and marks it for subscribers.
func (r *roster) update(host string, change func(p *presence)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.hosts[host]
	if p == nil {
		p = &presence{services: map[string]*murmurv1.ServiceReport{}, stages: map[string]*murmurv1.StageProgress{}}
		r.hosts[host] = p
	}
	change(p)
	for d := range r.subs {
		d.mark(host)
	}
}

// get returns a copy of one host's entry.
func (r *roster) get(host string) (presence, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	p := r.hosts[host]
	if p == nil {
		return presence{}, false
	}
	return p.clone(), true
}

func (p *presence) clone() presence {
	out := *p
	out.services, out.stages = maps.Clone(p.services), maps.Clone(p.stages)
	return out
}

// report returns what one host says about one service, and whether the host is connected.
func (r *roster) report(host, service string) (report *murmurv1.ServiceReport, connected bool, lastSeen time.Time) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	p := r.hosts[host]
	if p == nil {
		return nil, false, time.Time{}
	}
	return p.services[service], p.connected, p.lastSeen
}

// connected lists the hosts with a session, sorted.
func (r *roster) connected() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []string
	for id, p := range r.hosts {
		if p.connected {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// forget drops a host that left the fleet.
func (r *roster) forget(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.hosts, host)
	for d := range r.subs {
		d.mark(host)
	}
}

// dropSeeder counts every host of a seeder that can no longer be heard as disconnected.
func (r *roster) dropSeeder(seeder string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, p := range r.hosts {
		if p.seeder == seeder && p.connected {
			p.connected, p.lastSeen = false, now
			for d := range r.subs {
				d.mark(id)
			}
		}
	}
}

// setService stores a report; one service too many is dropped.
func (p *presence) setService(rep *murmurv1.ServiceReport) {
	name := rep.GetStatus().GetService()
	if _, known := p.services[name]; known || len(p.services) < maxServicesPerHost {
		p.services[name] = rep
	}
}

// fetching is the phase of a stage whose bytes are those of the artifact.
const fetching = "fetch"

// setStage stores how far a stage is; when there are too many, any other one goes. Bytes are counted while
// fetching only: what comes after counts those of the unpacked tree.
func (p *presence) setStage(st *murmurv1.StageProgress) {
	if st.GetPhase() != fetching {
		return
	}
	if _, known := p.stages[st.GetReleaseId()]; !known && len(p.stages) >= maxStagesPerHost {
		for id := range p.stages {
			delete(p.stages, id)
			break
		}
	}
	p.stages[st.GetReleaseId()] = st
}

// swarmProgress adds up how far the connected hosts among ids are with a release.
func (r *roster) swarmProgress(ids []string, release string) *murmurv1.SwarmProgress {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := &murmurv1.SwarmProgress{}
	for _, id := range ids {
		p := r.hosts[id]
		if p == nil {
			continue
		}
		if st := p.stages[release]; st != nil {
			out.BytesDone += st.BytesDone
			out.BytesTotal += st.BytesTotal
			out.SeederSent += st.FromSeeder
			out.FallbackBytes += st.Fallback
		}
	}
	return out
}

// touch notes a sign of life that changes nothing else, without waking anyone.
func (r *roster) touch(host string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.hosts[host]; p != nil {
		p.lastSeen = now
	}
}
