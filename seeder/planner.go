package seeder

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/internal/wire"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/rollout"
)

// planner turns a wish into a plan. A dry run and a start use the same code, so what was shown is what begins.
type planner struct {
	view   *view
	roster *roster
	judged bool // a judge is there
}

// wish is what somebody asks for.
type wish struct {
	service, release, strategyJSON string
	by, reason                     string
	// instant plans a way back.
	instant bool
}

// maxStrategy bounds the JSON of a strategy, in bytes.
const maxStrategy = 64 << 10

// plan makes a plan and says what its author should know before it begins.
func (p *planner) plan(w wish) (rollout.Plan, []string, error) {
	rel, err := p.view.resolve(w.service, w.release)
	if err != nil {
		return rollout.Plan{}, nil, err
	}
	strategy, err := strategyOf(rel.manifest.Recipe.Strategy, w.strategyJSON)
	if err != nil {
		return rollout.Plan{}, nil, err
	}
	selector, err := fleet.Parse(rel.manifest.Recipe.Selector)
	if err != nil {
		return rollout.Plan{}, nil, wire.Precondition("the selector of release %s: %w", rel.manifest.ID, err)
	}
	var stable string
	if svc, ok := p.view.service(w.service); ok {
		stable = svc.rec.Stable
	}
	hosts, previous := p.hosts(w.service, selector)
	id, err := uuid.NewV7()
	if err != nil {
		return rollout.Plan{}, nil, fmt.Errorf("make a rollout id: %w", err)
	}
	plan, err := rollout.NewPlan(id.String(), w.service, rel.manifest.ID, stable, hosts, previous, strategy, rollout.Options{
		NeedVerdict: p.judged, Instant: w.instant, By: w.by, Reason: w.reason,
	})
	if err != nil {
		return rollout.Plan{}, nil, wire.Precondition("%w", err)
	}
	return plan, p.warnings(&plan), nil
}

// hosts returns the hosts that a selector picks, and what each runs of the service now.
func (p *planner) hosts(service string, selector fleet.Selector) ([]fleet.Host, map[string]string) {
	var hosts []fleet.Host
	previous := map[string]string{}
	for _, h := range p.view.hostList() {
		if h.Declared || !selector.Matches(wire.FleetHost(*h)) {
			continue
		}
		hosts = append(hosts, wire.FleetHost(*h))
		rep, _, _ := p.roster.report(h.ID, service)
		if active := cmp.Or(rep.GetStatus().GetActive(), p.view.lastTold(service, h.ID)); active != "" {
			previous[h.ID] = active
		}
	}
	return hosts, previous
}

// strategyOf is the recipe's strategy with what JSON, if any, overrides.
func strategyOf(s release.Strategy, overrides string) (release.Strategy, error) {
	if overrides == "" {
		return s, nil
	}
	if len(overrides) > maxStrategy {
		return s, wire.Invalid("the strategy has %d bytes, at most %d are allowed", len(overrides), maxStrategy)
	}
	s.Steps = slices.Clone(s.Steps)
	dec := json.NewDecoder(bytes.NewReader([]byte(overrides)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, wire.Invalid("the strategy is not right: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return s, wire.Invalid("the strategy has something behind its end")
	}
	if err := s.Validate(); err != nil {
		return s, wire.Invalid("the strategy is not right: %w", err)
	}
	return s, nil
}

// warnings says what makes a plan's author think twice. None of them stops it, except where a start says so.
func (p *planner) warnings(plan *rollout.Plan) []string {
	var out []string
	stop, _, _, _ := p.view.fleetState()
	if stop.Stopped {
		out = append(out, fmt.Sprintf("the fleet is stopped by %s: %s; lift the stop first", stop.By, stop.Reason))
	}
	if svc, ok := p.view.service(plan.Service); ok {
		if l := svc.rec.Lock; l != nil {
			out = append(out, fmt.Sprintf("the service is locked by %s: %s; unlock it first", l.By, l.Reason))
		}
		if svc.rec.Active != "" {
			out = append(out, fmt.Sprintf("rollout %s is active: this one waits behind it and %d more", svc.rec.Active, len(svc.rec.Queue)))
		}
	}
	if plan.Release == plan.Stable {
		out = append(out, "this release is the stable one already")
	}
	var offline []string
	for _, h := range plan.Hosts {
		if _, connected, _ := p.roster.report(h.ID, plan.Service); !connected {
			offline = append(offline, p.view.hostName(h.ID))
		}
	}
	if n := len(offline); n > 0 {
		out = append(out, fmt.Sprintf("%d of %d hosts are offline: %s", n, len(plan.Hosts), some(offline, 5)))
	}
	return out
}

// some lists at most n names.
func some(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

// blastRadius says, a line for each step, what it adds.
func blastRadius(plan *rollout.Plan) []string {
	out := make([]string, len(plan.Steps))
	for i, s := range plan.Steps {
		line := fmt.Sprintf("step %d: %s", i+1, plan.BlastRadius(i))
		if n := plan.Cohort(i); n < len(plan.Hosts) {
			line += fmt.Sprintf(" (%d of %d so far)", n, len(plan.Hosts))
		}
		if s.Bake > 0 {
			line += ", then " + s.Bake.String() + " of watching"
		}
		out[i] = line
	}
	return out
}

// resolve finds a release of a service by id, by "stable", "previous" or "latest", or by a prefix of an id or of
// a commit that only one release has.
func (v *view) resolve(service, ref string) (*releaseView, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	id := ref
	svc := v.services[service]
	switch {
	case ref == "":
		return nil, wire.Invalid("which release? Say an id, a commit, or stable, previous or latest")
	case ref == "latest":
		id = v.latestLocked(service)
	case ref == "stable" && svc != nil:
		id = svc.rec.Stable
	case ref == "previous" && svc != nil:
		id = svc.rec.Previous
	}
	if r := v.releases[service+"/"+id]; r != nil {
		return r, nil
	}
	var found []*releaseView
	for key, r := range v.releases {
		if strings.HasPrefix(key, service+"/") && id != "" &&
			(strings.HasPrefix(r.manifest.ID, id) || strings.HasPrefix(r.manifest.Commit, id)) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, wire.NotFound("service %q has no release %q", service, ref)
	}
	return nil, wire.Invalid("%q fits %d releases of %s: say more of it", ref, len(found), service)
}

// latestLocked is the id of the newest release; ids sort by time.
func (v *view) latestLocked(service string) string {
	newest := ""
	for key, r := range v.releases {
		if strings.HasPrefix(key, service+"/") && r.manifest.ID > newest {
			newest = r.manifest.ID
		}
	}
	return newest
}

// lastTold is the release that a host was last told to run of a service; "" when it was told nothing.
func (v *view) lastTold(service, host string) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	svc, h := v.services[service], v.hosts[host]
	if svc == nil || h == nil {
		return ""
	}
	t, _ := v.targetLocked(svc, h)
	return t.active
}
