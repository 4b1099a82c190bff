package rollout

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// tally is what one look over all hosts says about the current step: who can move, who is being waited for and
// what the budgets have left.
type tally struct {
	plan *Plan
	// free steps may touch several racks and data centres: the canary cohort, when wider steps follow it.
	free bool

	eligible    []int // hosts of the cohort that are staged and reachable, in plan order
	busy        int   // hosts on the move: activating, or active for less than MinHealthy
	inFlight    int   // reachable hosts that activate
	waiting     int   // hosts of the cohort that time, or their return, will finish
	vouching    int   // reachable hosts of the cohort that run the release
	unavailable int
	lost        int
	failed      int

	racks map[place]*rackTally
	dcs   map[string]*dcTally
}

// place is a rack: its name means something only within its data centre.
type place struct{ dc, rack string }

func (p place) String() string {
	if p.dc == "" {
		return "rack " + p.rack
	}
	return "rack " + p.dc + "/" + p.rack
}

type rackTally struct {
	at                            place
	live, lost, unavailable, busy int
	budget                        int
	begun                         bool // in this step
}

// room reports whether one more host of the rack may be unavailable.
func (r *rackTally) room() bool { return r.unavailable < r.budget }

type dcTally struct {
	name  string
	busy  int
	begun bool      // in this step
	done  time.Time // when the last of its hosts in this step is, or will be, settled
}

// tally looks over all hosts at the time given.
func (s *State) tally(now time.Time) *tally {
	t := &tally{
		plan: &s.Plan, free: s.canary(),
		racks: make(map[place]*rackTally), dcs: make(map[string]*dcTally),
	}
	cohort := s.Cohort(s.Step)
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if h.Gone {
			continue
		}
		r, dc := t.at(&s.Plan.Hosts[i])
		t.countBudget(s, h, i, r, now)
		if s.busy(h, now) {
			t.busy++
			r.busy++
			dc.busy++
		}
		if i < cohort {
			t.countStep(s, h, i, now)
			t.countBegun(s, h, r, dc)
		}
	}
	return t
}

// at returns the tallies of a host's rack and data centre.
func (t *tally) at(h *Host) (*rackTally, *dcTally) {
	at := place{h.DC, h.Rack}
	r := t.racks[at]
	if r == nil {
		r = &rackTally{at: at, budget: t.plan.rackBudget(h.Place())}
		t.racks[at] = r
	}
	dc := t.dcs[h.DC]
	if dc == nil {
		dc = &dcTally{name: h.DC}
		t.dcs[h.DC] = dc
	}
	return r, dc
}

func (t *tally) countBudget(s *State, h *HostState, i int, r *rackTally, now time.Time) {
	r.live++
	if h.Lost {
		t.lost++
		r.lost++
	}
	if h.Phase == FailedHost && !h.Lost {
		t.failed++
	}
	if s.unavailable(h, i, now) {
		t.unavailable++
		r.unavailable++
	}
}

// countStep counts a host of the cohort. Hosts that did not stage are waited for by nobody.
func (t *tally) countStep(s *State, h *HostState, i int, now time.Time) {
	switch {
	case s.longLost(h, now):
	case h.Phase == StagedHost && !h.Lost:
		t.eligible = append(t.eligible, i)
	case h.Phase == StagedHost, h.Phase == ActivatingHost:
		t.waiting++
	case h.Phase == ActiveHost && (h.Lost || !s.settled(h, now)):
		t.waiting++
	case h.Phase == ActiveHost:
		t.vouching++
	}
	if h.Phase == ActivatingHost && !h.Lost {
		t.inFlight++
	}
}

func (t *tally) countBegun(s *State, h *HostState, r *rackTally, dc *dcTally) {
	switch h.Phase {
	case ActivatingHost, ActiveHost, FailedHost:
	default:
		return
	}
	if h.Since.Before(s.StepSince) {
		return
	}
	r.begun, dc.begun = true, true
	if end := h.Since.Add(s.Plan.Limits.MinHealthy); h.Phase == ActiveHost && end.After(dc.done) {
		dc.done = end
	}
}

// done reports whether the step is: nobody left to move or to wait for, and somebody to show for it.
func (t *tally) done() bool { return len(t.eligible) == 0 && t.waiting == 0 && t.vouching > 0 }

// down returns a rack that is lost as a whole, the first by name. Touching another one then could cost the
// service two racks.
func (t *tally) down() *rackTally {
	var down *rackTally
	for _, r := range t.racks {
		if r.live < 2 || r.lost < r.live {
			continue
		}
		if down == nil || comparePlaces(r.at, down.at) < 0 {
			down = r
		}
	}
	return down
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.dc, b.dc), cmp.Compare(a.rack, b.rack))
}

// blocked says in words why no host may move although some could.
func (t *tally) blocked() string {
	if r := t.down(); r != nil && !t.plan.Limits.AcrossRacks {
		return fmt.Sprintf("all %s of %s are lost: no other rack is touched meanwhile", plural(r.lost, "host"), r.at)
	}
	if limit := t.plan.Limits.MaxUnavailable; t.unavailable >= limit {
		return fmt.Sprintf("%d of at most %d unavailable: %s", t.unavailable, limit, t.who(t.lost, t.failed))
	}
	r, _ := t.at(&t.plan.Hosts[t.eligible[0]])
	return fmt.Sprintf("%d of at most %d unavailable in %s", r.unavailable, r.budget, r.at)
}

func (t *tally) who(lost, failed int) string {
	var parts []string
	if lost > 0 {
		parts = append(parts, fmt.Sprintf("%d lost", lost))
	}
	if failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", failed))
	}
	return strings.Join(parts, ", ")
}

// canary reports whether the current step is the canary cohort's: the first of several.
func (s *State) canary() bool { return s.Step == 0 && len(s.Plan.Steps) > 1 }

// settled reports whether an active host has been healthy for long enough.
func (s *State) settled(h *HostState, now time.Time) bool {
	return h.Phase == ActiveHost && !now.Before(h.Since.Add(s.Plan.Limits.MinHealthy))
}

// longLost reports whether a host has been lost for so long that nothing waits for it any more.
func (s *State) longLost(h *HostState, now time.Time) bool {
	return h.Lost && !now.Before(h.LostSince.Add(s.Plan.Limits.HealthyDeadline))
}

// busy reports whether a host is on the move, which keeps its rack the only one that is.
func (s *State) busy(h *HostState, now time.Time) bool {
	moving := h.Phase == ActivatingHost || h.Phase == ActiveHost && !s.settled(h, now)
	return moving && !s.longLost(h, now)
}

// unavailable reports whether a host counts against the budgets: it is lost, on the move, or failed and not yet
// back on what it ran before.
func (s *State) unavailable(h *HostState, i int, now time.Time) bool {
	switch h.Phase {
	case ActivatingHost, RevertingHost, RevertFailedHost:
		return true
	case ActiveHost:
		return h.Lost || !s.settled(h, now)
	case FailedHost:
		return h.Lost || h.Running == "" || h.Running != s.Plan.home(i)
	}
	return h.Lost
}
