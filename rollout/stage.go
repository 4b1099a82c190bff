package rollout

import (
	"fmt"
	"strings"
)

// slotGranted records that no other rollout of the service is active. A way back waits for nothing else.
func (d *draft) slotGranted() {
	if d.s.Slot {
		return
	}
	d.s.Slot, d.changed = true, true
}

// pending begins as soon as the slot is granted and the gate is open.
func (d *draft) pending() {
	if !d.s.Slot {
		return
	}
	if d.s.Plan.Instant {
		d.beginInstant()
		return
	}
	if d.s.Gate.Decision != GateOpen {
		if reason := d.gateReason(); d.s.Reason != reason {
			d.s.Reason, d.changed = reason, true
		}
		return
	}
	d.enter(Staging, "")
	for i := range d.s.Hosts {
		if h := d.s.Hosts[i]; h.Phase == WaitingHost && !h.Gone {
			d.move(i, StagingHost, "")
		}
	}
	d.s.Progress = d.now
	d.retargetAll()
	d.tell(fmt.Sprintf("%s: rollout of %s begins: %s", d.s.Plan.Service, d.s.Plan.Release, plural(len(d.s.Hosts), "host")))
}

// staging ends when nobody reachable is still fetching and the first cohort is ready, or at the deadline with
// whoever is ready.
func (d *draft) staging() {
	fetching, unready, ready := d.stageCounts()
	late := !d.now.Before(d.s.Since.Add(d.s.Plan.Limits.StageDeadline))
	switch {
	case ready > 0 && fetching == 0 && unready == 0:
		d.enterStep(0)
	case late && ready > 0:
		d.noteStragglers()
		d.enterStep(0)
	case late:
		d.fail(fmt.Sprintf("no host of the first step could stage %s within %s", d.s.Plan.Release, d.s.Plan.Limits.StageDeadline))
	}
}

// stageCounts counts reachable hosts that are still fetching, reachable hosts of the first cohort that are not
// staged, and hosts of it that are.
func (d *draft) stageCounts() (fetching, unready, ready int) {
	first := d.s.Cohort(0)
	for i, h := range d.s.Hosts {
		switch {
		case h.Gone:
		case h.Phase == StagedHost && i < first:
			ready++
		case h.Phase == StagedHost || h.Lost:
		case i < first:
			unready++
		case h.Phase == StagingHost:
			fetching++
		}
	}
	return fetching, unready, ready
}

// noteStragglers lists the hosts that did not stage in time. They join a later step when they do.
func (d *draft) noteStragglers() {
	var late []string
	for i, h := range d.s.Hosts {
		if !h.Gone && h.Phase != StagedHost {
			late = append(late, d.s.Plan.Hosts[i].label())
		}
	}
	d.note(Entry{Kind: "straggler", Text: fmt.Sprintf("going on without %s not staged within %s: %s",
		plural(len(late), "host"), d.s.Plan.Limits.StageDeadline, some(late))})
}

// some lists the first few of many names.
func some(names []string) string {
	const few = 10
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
