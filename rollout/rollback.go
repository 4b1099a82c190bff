package rollout

import "fmt"

// expireHosts counts hosts as failed that did not become healthy in time. A lost host is not a failure.
func (d *draft) expireHosts() {
	deadline := d.s.Plan.Limits.HealthyDeadline
	for i := range d.s.Hosts {
		h := &d.s.Hosts[i]
		if h.Phase == ActivatingHost && !h.Lost && !h.Gone && !d.now.Before(h.Since.Add(deadline)) {
			d.markFailed(i, fmt.Sprintf("not healthy within %s", deadline))
		}
	}
}

// failed ends a rollout that the judge or too many hosts have failed, and reports whether it did. A way back
// is never failed by hosts: there is nothing better to go to.
func (d *draft) failed() bool {
	if d.s.Plan.Instant {
		return false
	}
	if d.s.Verdict == Fail {
		d.fail("the judge says fail" + because(d.s.VerdictReason))
		return true
	}
	failures, last := 0, 0
	for i := range d.s.Hosts {
		if d.s.Hosts[i].Failures > 0 {
			failures, last = failures+1, i
		}
	}
	allowed := d.s.Plan.Limits.MaxFailures
	if d.s.canary() {
		allowed = 0
	}
	if failures <= allowed {
		return false
	}
	d.fail(fmt.Sprintf("%s failed, %d allowed: %s%s", plural(failures, "host"), allowed,
		d.s.Plan.Hosts[last].label(), because(d.s.Hosts[last].Detail)))
	return true
}

// fail turns the rollout back, or leaves it where it is when the plan says so.
func (d *draft) fail(reason string) {
	if !d.s.Plan.Limits.NoAutoRollback && !d.s.Plan.Instant {
		d.turnBack(reason, true, false)
		return
	}
	d.enter(Failed, reason)
	d.s.Auto = true
	d.retargetAll()
	d.emit(Effect{Kind: LockService, Text: d.s.Reason})
	d.emit(Effect{Kind: FreeSlot})
	d.tell(fmt.Sprintf("%s: %s failed and stays where it is: %s", d.s.Plan.Service, d.s.Plan.Release, d.s.Reason))
}

// turnBack sends every touched host, or with everyone the whole plan, to what it ran before: at once, asking
// nobody.
func (d *draft) turnBack(reason string, auto, everyone bool) {
	stable := d.s.Phase == Complete || d.s.Phase == Completing
	d.enter(RollingBack, reason)
	d.s.Auto = auto
	for i := range d.s.Hosts {
		if h := &d.s.Hosts[i]; !h.Gone && (everyone || h.Phase.Touched()) {
			d.revert(i)
		}
	}
	d.retargetAll()
	if stable {
		d.emit(Effect{Kind: RestoreStable})
	}
	d.tell(fmt.Sprintf("%s: rolling back %s: %s", d.s.Plan.Service, d.s.Plan.Release, d.s.Reason))
}

// revert sends host i home. A host that is there already, or has no home, is done: nothing better can be told.
func (d *draft) revert(i int) {
	h, home := d.s.Hosts[i], d.s.Plan.home(i)
	switch {
	case home == "":
		d.move(i, RevertedHost, "there is no earlier release to go back to")
	case h.Running == home:
		d.move(i, RevertedHost, "")
	default:
		d.move(i, RevertingHost, "")
	}
}

// rollingBack ends when every reachable host is back or has failed to be, at the latest after HealthyDeadline.
// Lost hosts go home when they return: their target says so.
func (d *draft) rollingBack() {
	limit := d.s.Plan.Limits.HealthyDeadline
	late := !d.now.Before(d.s.Since.Add(limit))
	for i := range d.s.Hosts {
		h := &d.s.Hosts[i]
		if h.Phase != RevertingHost || h.Lost || h.Gone {
			continue
		}
		if !late {
			return
		}
		d.move(i, RevertFailedHost, fmt.Sprintf("not back within %s", limit))
	}
	d.enter(RolledBack, d.s.Reason)
	if d.s.Auto {
		d.emit(Effect{Kind: LockService, Text: d.s.Reason})
	}
	d.emit(Effect{Kind: FreeSlot})
	d.tell(fmt.Sprintf("%s: rolled back %s: %s", d.s.Plan.Service, d.s.Plan.Release, d.returned()))
}

// returned says in words how a way back ended.
func (d *draft) returned() string {
	var back, failed, lost int
	for _, h := range d.s.Hosts {
		switch {
		case h.Gone:
		case h.Phase == RevertedHost:
			back++
		case h.Phase == RevertFailedHost:
			failed++
		case h.Phase == RevertingHost:
			lost++
		}
	}
	text := plural(back, "host") + " back"
	if failed > 0 {
		text += fmt.Sprintf(", %d failed on the way", failed)
	}
	if lost > 0 {
		text += fmt.Sprintf(", %d lost that will follow when they return", lost)
	}
	return text
}

// Touched reports whether a host in this phase may have run the release.
func (p HostPhase) Touched() bool {
	switch p {
	case WaitingHost, StagingHost, StagedHost, StageFailedHost, "":
		return false
	}
	return true
}

// beginInstant sends the whole plan to its release at once: no gate, no wave, no bake.
func (d *draft) beginInstant() {
	d.enter(Activating, "the way back to "+d.s.Plan.Release+because(d.s.Plan.Reason))
	d.s.StepSince, d.s.Progress = d.now, d.now
	for i := range d.s.Hosts {
		if !d.s.Hosts[i].Gone {
			d.move(i, ActivatingHost, "")
		}
	}
	d.retargetAll()
	d.tell(fmt.Sprintf("%s: going back to %s on %s%s", d.s.Plan.Service, d.s.Plan.Release,
		plural(len(d.s.Hosts), "host"), because(d.s.Plan.Reason)))
}

// activatingInstant ends as a rollback does. A way back that worked nowhere has failed.
func (d *draft) activatingInstant() {
	late := !d.now.Before(d.s.StepSince.Add(d.s.Plan.Limits.HealthyDeadline))
	active, failed := 0, 0
	for _, h := range d.s.Hosts {
		switch {
		case h.Gone:
		case h.Phase == ActivatingHost && !h.Lost && !late:
			return
		case h.Phase == ActiveHost:
			active++
		case h.Phase == FailedHost:
			failed++
		}
	}
	if active == 0 && failed > 0 {
		d.fail(fmt.Sprintf("%s failed on every host reached", d.s.Plan.Release))
		return
	}
	d.next()
}
