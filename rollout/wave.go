package rollout

import (
	"fmt"
	"time"

	"github.com/murmuration/murmuration/fleet"
)

// enterStep makes a step the current one and asks the gate about it. Nothing moves before the answer.
func (d *draft) enterStep(step int) {
	d.s.Step = step
	d.s.StepSince, d.s.BakeSince = time.Time{}, time.Time{}
	d.s.Verdict, d.s.VerdictReason = VerdictNone, ""
	d.askGate()
	d.s.Phase, d.s.Since, d.s.Reason = Holding, d.now, asking
	d.s.Resume, d.s.Cause = Activating, CauseGate
}

// beginStep lets the current step's hosts move, and the judge look.
func (d *draft) beginStep() {
	step := d.s.Step
	text := d.stepName() + ": " + d.radius()
	d.enter(Activating, text)
	d.s.StepSince, d.s.Progress = d.now, d.now
	observe := Effect{Kind: Observe}
	for _, h := range d.s.Plan.Hosts[:d.s.Cohort(step)] {
		observe.Hosts = append(observe.Hosts, h.ID)
	}
	d.emit(observe)
	d.tell(fmt.Sprintf("%s: %s, %s", d.s.Plan.Service, d.s.Plan.Release, text))
}

// stepName places the current step among all.
func (d *draft) stepName() string {
	return fmt.Sprintf("step %d of %d", d.s.Step+1, len(d.s.Plan.Steps))
}

// radius says which hosts the current step has still to touch. After a promotion over several steps they are
// more than its own.
func (d *draft) radius() string {
	var r fleet.Radius
	for i := range d.s.Cohort(d.s.Step) {
		if h := &d.s.Hosts[i]; !h.Gone && !h.Phase.Touched() {
			r.Add(d.s.Plan.Hosts[i].DC, d.s.Plan.Hosts[i].Rack)
		}
	}
	return r.String()
}

// activating moves the hosts of the current step, as many at a time as the limits allow.
func (d *draft) activating() {
	if d.s.Plan.Instant {
		d.activatingInstant()
		return
	}
	if d.s.StepSince.IsZero() {
		if d.s.Gate.Decision != GateOpen {
			d.hold(CauseGate, d.gateReason())
			return
		}
		d.beginStep()
	}
	switch t := d.s.tally(d.now); {
	case t.done():
		d.bake()
	case t.inFlight > 0 && d.s.Phase == Activating && !d.now.Before(d.s.progressDeadline()):
		d.fail(fmt.Sprintf("no host made progress for %s; %s activating", d.s.Plan.Limits.ProgressDeadline, plural(t.inFlight, "host")))
	default:
		d.wave(t)
	}
}

// progressDeadline is when a step in which nothing happens has failed.
func (s *State) progressDeadline() time.Time { return s.Progress.Add(s.Plan.Limits.ProgressDeadline) }

// wave starts the hosts that may move now, or says what keeps them.
func (d *draft) wave(t *tally) {
	if len(t.eligible) > 0 && d.s.Gate.Decision != GateOpen {
		d.hold(CauseGate, d.gateReason())
		return
	}
	moved := d.start(t)
	_, waits := t.next(d.now)
	switch {
	case moved > 0 || t.busy > 0:
		d.resume(d.stepName())
	case len(t.eligible) > 0 && waits.After(d.now): // a data centre is being watched
		d.resume(d.stepName())
	case len(t.eligible) > 0:
		d.hold(CauseBudget, t.blocked())
	case t.waiting > 0: // lost hosts may return
		d.resume(d.stepName())
	default:
		d.hold(CauseLost, "no host of the step can be reached")
	}
}

// start moves hosts until a budget is used up, and returns how many.
func (d *draft) start(t *tally) int {
	if !t.plan.Limits.AcrossRacks && t.down() != nil {
		return 0
	}
	var radius fleet.Radius
	moved := 0
	open := t.openings(d.now)
	for _, i := range t.eligible {
		if t.unavailable >= t.plan.Limits.MaxUnavailable {
			break
		}
		h := &t.plan.Hosts[i]
		r, _ := t.at(h)
		if !open(r) || !r.room() {
			continue
		}
		t.unavailable++
		r.unavailable++
		moved++
		radius.Add(h.DC, h.Rack)
		d.move(i, ActivatingHost, "")
		d.retarget(i)
	}
	if moved > 0 {
		d.s.Progress = d.now
		d.note(Entry{Kind: "wave", Text: radius.String()})
	}
	return moved
}

// openings tells in which racks hosts may move now. Without a licence to spread that is one rack of one data
// centre: the one where hosts are on the move, else one that this step has begun, else the next host's.
func (t *tally) openings(now time.Time) func(*rackTally) bool {
	limits := t.plan.Limits
	if t.free {
		return func(*rackTally) bool { return true }
	}
	dc, waits := t.next(now)
	if dc == nil && !limits.AcrossDCs || waits.After(now) {
		return func(*rackTally) bool { return false }
	}
	if limits.AcrossRacks {
		return func(r *rackTally) bool { return limits.AcrossDCs || r.at.dc == dc.name }
	}
	current := make(map[string]*rackTally)
	return func(r *rackTally) bool {
		if !limits.AcrossDCs && r.at.dc != dc.name {
			return false
		}
		only, ok := current[r.at.dc]
		if !ok {
			only = t.openRack(r.at.dc)
			current[r.at.dc] = only
		}
		return r == only
	}
}

// openRack picks the rack of a data centre in which hosts may move; nil while two still do.
func (t *tally) openRack(dc string) *rackTally {
	var busy []*rackTally
	for _, r := range t.racks {
		if r.at.dc == dc && r.busy > 0 {
			busy = append(busy, r)
		}
	}
	switch len(busy) {
	case 0:
	case 1:
		return busy[0]
	default:
		return nil
	}
	var first *rackTally
	for _, i := range t.eligible {
		r, _ := t.at(&t.plan.Hosts[i])
		if r.at.dc != dc || !r.room() {
			continue
		}
		if r.begun {
			return r
		}
		if first == nil {
			first = r
		}
	}
	return first
}

// next picks the data centre whose turn it is and when it may begin. Data centres go in order of their names;
// hosts that staged late in one that is behind go last. It is nil while another's hosts are on the move, or
// when nothing is left to move.
func (t *tally) next(now time.Time) (*dcTally, time.Time) {
	if t.free || t.plan.Limits.AcrossDCs {
		return nil, time.Time{}
	}
	furthest := ""
	for _, dc := range t.dcs {
		if dc.begun {
			furthest = max(furthest, dc.name)
		}
	}
	var pick, behind *dcTally
	for _, i := range t.eligible {
		dc := t.dcs[t.plan.Hosts[i].DC]
		if dc.name >= furthest && (pick == nil || dc.name < pick.name) {
			pick = dc
		}
		if behind == nil || dc.name < behind.name {
			behind = dc
		}
	}
	if pick == nil {
		pick = behind
	}
	if pick == nil || t.busyElsewhere(pick) {
		return nil, time.Time{}
	}
	return pick, t.watchedUntil(pick)
}

func (t *tally) busyElsewhere(dc *dcTally) bool {
	for _, other := range t.dcs {
		if other != dc && other.busy > 0 {
			return true
		}
	}
	return false
}

// watchedUntil is when a data centre may begin: after those that this step has begun were watched long enough.
func (t *tally) watchedUntil(dc *dcTally) time.Time {
	var until time.Time
	if dc.begun {
		return until
	}
	first := ""
	found := false
	for _, other := range t.dcs {
		if other.begun && (!found || other.name < first) {
			first, found = other.name, true
		}
	}
	for _, other := range t.dcs {
		if !other.begun || other.done.IsZero() {
			continue
		}
		bake := t.plan.Limits.DCBake
		if other.name == first {
			bake = t.plan.Limits.FirstDCBake
		}
		if end := other.done.Add(bake); end.After(until) {
			until = end
		}
	}
	return until
}
