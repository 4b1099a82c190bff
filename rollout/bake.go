package rollout

import (
	"fmt"
	"time"
)

// bake begins to watch a step whose hosts are done.
func (d *draft) bake() {
	step := d.s.Plan.Steps[d.s.Step]
	d.enter(Baking, "")
	d.s.BakeSince = d.now
	if text := d.unfinished(); text != "" {
		d.note(Entry{Kind: "straggler", Text: "the step is complete without " + text})
	}
	if step.Bake > 0 {
		d.s.Reason = "watching for " + step.Bake.String()
	}
}

// baking ends with the least bake time and whatever the step needs besides: a person, the judge, or health.
// Failures have been dealt with before.
func (d *draft) baking() {
	step := d.s.Plan.Steps[d.s.Step]
	if d.now.Before(d.s.BakeSince.Add(step.Bake)) {
		return
	}
	switch {
	case step.Manual:
		d.wait(Paused, CauseManual, "waiting for promote")
	case d.needsVerdict():
		d.judge(step)
	case !d.vouched():
		d.hold(CauseLost, "no host of the step can be reached, so nothing says that it is well")
	default:
		d.next()
	}
}

// needsVerdict reports whether the current step waits for the judge.
func (d *draft) needsVerdict() bool {
	return d.s.Plan.NeedVerdict && d.s.Plan.Steps[d.s.Step].Bake > 0
}

// judge acts on the last verdict of a step that needs one. Fail never comes here: see failed.
func (d *draft) judge(step Widening) {
	if d.s.Verdict == Pass {
		d.next()
		return
	}
	limit := max(step.MaxBake, step.Bake)
	if d.now.Before(d.s.BakeSince.Add(limit)) {
		return
	}
	if d.s.Verdict == Hold {
		d.hold(CauseVerdict, fmt.Sprintf("the judge is undecided after %s%s", limit, because(d.s.VerdictReason)))
	} else {
		d.hold(CauseVerdict, fmt.Sprintf("no verdict after %s", limit))
	}
}

// vouched reports whether a reachable host of the cohort runs the release. No data is never healthy.
func (d *draft) vouched() bool {
	for _, h := range d.s.Hosts[:d.s.Cohort(d.s.Step)] {
		if h.Phase == ActiveHost && !h.Lost && !h.Gone {
			return true
		}
	}
	return false
}

// next goes on to the next step, or to the end.
func (d *draft) next() {
	if d.s.Step+1 < len(d.s.Plan.Steps) {
		d.enterStep(d.s.Step + 1)
		return
	}
	d.enter(Completing, "making "+d.s.Plan.Release+" the stable release")
	d.emit(Effect{Kind: SetStable})
}

// complete ends a rollout whose release is now the stable one. Hosts that were left behind are told so.
func (d *draft) complete() {
	left := d.unfinished()
	d.enter(Complete, "")
	for i, h := range d.s.Hosts {
		if !h.Gone && h.Phase != ActiveHost {
			d.retarget(i)
		}
	}
	d.emit(Effect{Kind: FreeSlot})
	text := fmt.Sprintf("%s: %s is complete on %s", d.s.Plan.Service, d.s.Plan.Release, plural(d.s.Counts().Active, "host"))
	if left != "" {
		text += "; still to come: " + left
	}
	d.tell(text)
}

// unfinished lists the hosts of the cohort that do not run the release; "" when all do.
func (d *draft) unfinished() string {
	var names []string
	for i, h := range d.s.Hosts[:d.s.Cohort(d.s.Step)] {
		switch {
		case h.Gone || h.Phase == ActiveHost && !h.Lost:
		case h.Lost:
			names = append(names, d.s.Plan.Hosts[i].label()+" (lost)")
		default:
			names = append(names, fmt.Sprintf("%s (%s)", d.s.Plan.Hosts[i].label(), h.Phase))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s", plural(len(names), "host"), some(names))
}

// verdictGiven records the judge's word, if it is about the current step.
func (d *draft) verdictGiven(e VerdictGiven) {
	switch e.Verdict {
	case Pass, Fail, Hold:
	default:
		return
	}
	reason := clip(e.Reason)
	if e.Step != d.s.Step || d.s.Plan.Instant || d.s.StepSince.IsZero() ||
		d.s.Verdict == Fail || d.s.Verdict == e.Verdict && d.s.VerdictReason == reason {
		return
	}
	switch d.s.Phase {
	case Activating, Baking, Paused, Holding:
	default:
		return
	}
	if d.s.Verdict != e.Verdict {
		d.note(Entry{Kind: "verdict", Text: string(e.Verdict) + because(reason)})
	}
	d.s.Verdict, d.s.VerdictReason, d.changed = e.Verdict, reason, true
}

// BakeUntil is when the current step's bake ends at the earliest; false while it has not begun.
func (s State) BakeUntil() (time.Time, bool) {
	if s.BakeSince.IsZero() {
		return time.Time{}, false
	}
	return s.BakeSince.Add(s.Plan.Steps[s.Step].Bake), true
}
