package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/release"
)

// ErrPlan is wrapped by every error about a plan that cannot be.
var ErrPlan = errors.New("bad rollout plan")

// minMaxBake is the least time the judge has before an inconclusive step holds.
const minMaxBake = 10 * time.Minute

// Options is what a plan needs besides the strategy.
type Options struct {
	// NeedVerdict makes steps with a bake wait for the judge.
	NeedVerdict bool
	// Instant plans a way back: see Plan.Instant.
	Instant bool
	By      string
	Reason  string
}

// NewPlan plans a rollout of a release over the hosts that run the service: it puts them in cohort order
// ([fleet.Order], salted with the service), resolves the strategy with its defaults into numbers, and leaves
// out cordoned hosts (drained ones only, when the plan is a way back). Steps that would not widen on so few
// hosts are merged into the one before, with the longer bake; a judge has three times a step's bake, at least
// ten minutes, before the step holds. A strategy that is manual waits after every step but the last.
//
// Previous maps host ids to the release that is active on them now. Errors wrap [ErrPlan].
func NewPlan(id, service, releaseID, stable string, hosts []fleet.Host, previous map[string]string, st release.Strategy, o Options) (Plan, error) {
	if err := st.Validate(); err != nil {
		return Plan{}, fmt.Errorf("%w: strategy: %w", ErrPlan, err)
	}
	st = st.WithDefaults()
	p := Plan{
		ID: id, Service: service, Release: releaseID, Stable: stable,
		Instant: o.Instant, NeedVerdict: o.NeedVerdict && !o.Instant, By: o.By, Reason: o.Reason,
	}
	hosts = taking(hosts, o.Instant)
	first := Widening{Hosts: st.Steps[0].Hosts, Dial: st.Steps[0].Dial}.size(len(hosts))
	for _, h := range fleet.Order(hosts, service, first) {
		p.Hosts = append(p.Hosts, Host{ID: h.ID, Name: h.Name, Rack: h.Rack(), DC: h.DC(), Previous: previous[h.ID]})
	}
	p.Steps = planSteps(st, len(hosts))
	if o.Instant {
		p.Steps = []Widening{{Hosts: max(1, len(hosts))}}
	}
	if err := p.limit(st); err != nil {
		return Plan{}, fmt.Errorf("%w: %w", ErrPlan, err)
	}
	return p, p.Validate()
}

// taking leaves out the hosts that take no part.
func taking(hosts []fleet.Host, instant bool) []fleet.Host {
	return slices.DeleteFunc(slices.Clone(hosts), func(h fleet.Host) bool {
		return h.Drained || h.Cordoned && !instant
	})
}

func planSteps(st release.Strategy, n int) []Widening {
	var steps []Widening
	for _, from := range st.Steps {
		step := Widening{Hosts: from.Hosts, Dial: from.Dial, Bake: from.Bake.Std(), Manual: from.Manual}
		size := step.size(n)
		if k := len(steps) - 1; k >= 0 && size <= steps[k].size(n) {
			steps[k].Bake = max(steps[k].Bake, step.Bake)
			steps[k].Manual = steps[k].Manual || step.Manual
			continue
		}
		steps = append(steps, step)
	}
	for i := range steps {
		if steps[i].Bake > 0 {
			steps[i].MaxBake = max(3*steps[i].Bake, minMaxBake)
		}
		steps[i].Manual = steps[i].Manual || st.Manual && i < len(steps)-1
	}
	return steps
}

// limit resolves budgets. A share per rack is of each rack's own size.
func (p *Plan) limit(st release.Strategy) error {
	racks := make(map[string]int)
	for _, h := range p.Hosts {
		racks[h.Place()]++
	}
	total, err := fleet.ParseBudget(st.MaxUnavailable, len(p.Hosts))
	if err != nil {
		return fmt.Errorf("max_unavailable: %w", err)
	}
	perRack := 1
	budgets := make(map[string]int, len(racks))
	for at, size := range racks {
		if budgets[at], err = fleet.ParseBudget(st.MaxUnavailablePerRack, size); err != nil {
			return fmt.Errorf("max_unavailable_per_rack: %w", err)
		}
		perRack = max(perRack, budgets[at])
	}
	for at, n := range budgets {
		if n == perRack {
			delete(budgets, at)
		}
	}
	if len(budgets) > 0 {
		p.RackBudgets = budgets
	}
	p.Limits = Limits{
		MaxUnavailable: total, MaxUnavailablePerRack: perRack,
		AcrossRacks: st.AcrossRacks, AcrossDCs: st.AcrossDCs,
		DCBake: st.DCBake.Std(), FirstDCBake: st.FirstDCBake.Std(),
		MinHealthy: st.MinHealthy.Std(), HealthyDeadline: st.HealthyDeadline.Std(),
		ProgressDeadline: st.ProgressDeadline.Std(), StageDeadline: st.StageDeadline.Std(),
		MaxFailures: st.MaxFailures, NoAutoRollback: st.NoAutoRollback,
	}
	return nil
}

// size is how many of n hosts the step covers: at least one, if there is one.
func (s Widening) size(n int) int {
	size := s.Hosts
	if s.Dial > 0 {
		size = s.Dial.Count(n)
	}
	return min(max(size, 1), n)
}

// Cohort is how many hosts of the plan, from the first on, the step with this index covers. An index below the
// first step covers none, one behind the last covers all.
func (p Plan) Cohort(step int) int {
	switch {
	case step < 0:
		return 0
	case step >= len(p.Steps):
		return len(p.Hosts)
	}
	return p.Steps[step].size(len(p.Hosts))
}

// Cohort is [Plan.Cohort] of the state's plan.
func (s State) Cohort(step int) int { return s.Plan.Cohort(step) }

// BlastRadius says in words which hosts the step with this index adds: "12 hosts in 3 racks of dc a".
func (p Plan) BlastRadius(step int) string {
	var r fleet.Radius
	for _, h := range p.Hosts[min(p.Cohort(step-1), p.Cohort(step)):p.Cohort(step)] {
		r.Add(h.DC, h.Rack)
	}
	return r.String()
}

// label is what people call the host.
func (h Host) label() string { return cmp.Or(h.Name, h.ID) }

// home is the release host i goes back to: what it ran before, else the stable one; "" if there is neither.
func (p Plan) home(i int) string { return cmp.Or(p.Hosts[i].Previous, p.Stable) }

func (p Plan) indexOf(id string) int {
	for i := range p.Hosts {
		if p.Hosts[i].ID == id {
			return i
		}
	}
	return -1
}

// rackBudget is how many hosts may be unavailable in the rack.
func (p Plan) rackBudget(place string) int {
	if n, ok := p.RackBudgets[place]; ok {
		return min(n, p.Limits.MaxUnavailablePerRack)
	}
	return p.Limits.MaxUnavailablePerRack
}

// Validate reports everything wrong with a plan; errors wrap [ErrPlan].
func (p Plan) Validate() error {
	errs := slices.Concat(p.checkNames(), p.checkSteps(), p.checkLimits())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrPlan, err)
	}
	return nil
}

func (p Plan) checkNames() (errs []error) {
	if p.ID == "" || p.Service == "" || p.Release == "" {
		errs = append(errs, errors.New("id, service and release must be set"))
	}
	if strings.Contains(p.ID, "/") {
		errs = append(errs, fmt.Errorf("id %q has a slash, which separates the parts of effect keys", p.ID))
	}
	if len(p.Hosts) == 0 {
		errs = append(errs, errors.New("no host takes part: check the selector, and for cordoned hosts"))
	}
	seen := make(map[string]bool, len(p.Hosts))
	for i, h := range p.Hosts {
		if h.ID == "" || seen[h.ID] {
			errs = append(errs, fmt.Errorf("host %d: id %q is empty or there twice", i, h.ID))
		}
		seen[h.ID] = true
	}
	return errs
}

func (p Plan) checkSteps() (errs []error) {
	if len(p.Steps) == 0 {
		return []error{errors.New("no steps")}
	}
	for i, s := range p.Steps {
		switch {
		case s.Hosts < 0 || !s.Dial.Valid() || (s.Hosts == 0) == (s.Dial == 0):
			errs = append(errs, fmt.Errorf("step %d: exactly one of hosts and dial must be set", i+1))
		case s.Bake < 0 || s.MaxBake < 0:
			errs = append(errs, fmt.Errorf("step %d: a negative bake", i+1))
		case i > 0 && p.Cohort(i) < p.Cohort(i-1):
			errs = append(errs, fmt.Errorf("step %d: it covers %s, the step before %d", i+1, plural(p.Cohort(i), "host"), p.Cohort(i-1)))
		}
	}
	if last := p.Cohort(len(p.Steps) - 1); last < len(p.Hosts) {
		errs = append(errs, fmt.Errorf("the last step covers %d of %d hosts", last, len(p.Hosts)))
	}
	if p.Instant && len(p.Steps) != 1 {
		errs = append(errs, fmt.Errorf("a way back has one step, not %d", len(p.Steps)))
	}
	return errs
}

func (p Plan) checkLimits() (errs []error) {
	l := p.Limits
	if l.MaxUnavailable < 1 || l.MaxUnavailablePerRack < 1 {
		errs = append(errs, errors.New("at least one host must be allowed to be unavailable, per rack and in all"))
	}
	for at, n := range p.RackBudgets {
		if n < 1 {
			errs = append(errs, fmt.Errorf("rack %s: at least one host must be allowed to be unavailable", at))
		}
	}
	if l.HealthyDeadline <= 0 || l.ProgressDeadline <= 0 || l.StageDeadline <= 0 {
		errs = append(errs, errors.New("healthy, progress and stage deadlines must be positive"))
	}
	if l.MinHealthy < 0 || l.DCBake < 0 || l.FirstDCBake < 0 || l.MaxFailures < 0 {
		errs = append(errs, errors.New("min healthy, data centre bakes and max failures must not be negative"))
	}
	return errs
}
