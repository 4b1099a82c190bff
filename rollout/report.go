package rollout

import (
	"fmt"
	"time"
)

// hostOf is the host a report is about.
func hostOf(e Event) string {
	switch e := e.(type) {
	case HostStaged:
		return e.Host
	case HostStageFailed:
		return e.Host
	case HostActivated:
		return e.Host
	case HostFailed:
		return e.Host
	case HostLost:
		return e.Host
	case HostReturned:
		return e.Host
	case HostRemoved:
		return e.Host
	}
	return ""
}

// report records what is known of a host since this event. What it means for the rollout is decided by advance.
func (d *draft) report(e Event) error {
	i, err := d.find(hostOf(e))
	if err != nil {
		return err
	}
	if d.s.Hosts[i].Gone {
		return nil
	}
	at := d.now
	d.now = stored(e.when())
	switch e := e.(type) {
	case HostStaged:
		d.hostStaged(i)
	case HostStageFailed:
		d.hostStageFailed(i, e.Detail)
	case HostActivated:
		d.hostActivated(i, e.Release)
	case HostFailed:
		d.hostFailed(i, e.Release, e.Detail)
	case HostLost:
		d.hostLost(i)
	case HostReturned:
		d.hostReturned(i)
	case HostRemoved:
		d.host(i).Gone = true
		d.noteHost(i, "left the fleet")
	}
	d.now = at
	return nil
}

func (d *draft) noteHost(i int, text string) {
	d.note(Entry{Kind: "host", Host: d.s.Plan.Hosts[i].ID, Text: text})
}

func (d *draft) hostStaged(i int) {
	switch d.s.Hosts[i].Phase {
	case WaitingHost, StagingHost, StageFailedHost:
		if d.s.Phase != RollingBack {
			d.move(i, StagedHost, "")
			d.s.Progress = d.now
		}
	}
}

func (d *draft) hostStageFailed(i int, detail string) {
	h := d.s.Hosts[i]
	switch h.Phase {
	case WaitingHost, StagingHost, StagedHost:
	case StageFailedHost:
		if h.Detail == clip(detail) {
			return
		}
	default:
		return
	}
	if d.s.Phase != RollingBack {
		d.move(i, StageFailedHost, detail)
		d.noteHost(i, "could not stage"+because(detail))
	}
}

// hostActivated takes a release that runs and is healthy. Whatever is not the host's present goal is old news.
func (d *draft) hostActivated(i int, release string) {
	h, home := d.s.Hosts[i], d.s.Plan.home(i)
	switch {
	case h.Phase == ActivatingHost && release == d.s.Plan.Release:
		d.move(i, ActiveHost, "").Running = release
		d.s.Progress = d.now
	case (h.Phase == RevertingHost || h.Phase == RevertFailedHost) && release == home:
		d.move(i, RevertedHost, "").Running = release
		d.s.Progress = d.now
	case h.Phase == FailedHost && release == home && h.Running != home:
		d.host(i).Running = release
	}
}

// hostFailed takes a failure of a release the host was told to run.
func (d *draft) hostFailed(i int, release, detail string) {
	h := d.s.Hosts[i]
	switch {
	case (h.Phase == ActivatingHost || h.Phase == ActiveHost) && release == d.s.Plan.Release:
		d.markFailed(i, detail)
	case h.Phase == RevertingHost && release == d.s.Plan.home(i):
		d.move(i, RevertFailedHost, detail).Running = ""
		d.noteHost(i, fmt.Sprintf("%s failed on the way back%s", release, because(detail)))
	}
}

// markFailed counts the release as failed on host i. The host goes home at once: see Target.
func (d *draft) markFailed(i int, detail string) {
	h := d.move(i, FailedHost, detail)
	h.Failures++
	h.Running = ""
	d.noteHost(i, "failed"+because(detail))
	d.retarget(i)
}

func (d *draft) hostLost(i int) {
	if d.s.Hosts[i].Lost {
		return
	}
	h := d.host(i)
	h.Lost, h.LostSince = true, d.now
	if i < d.s.Cohort(d.s.Step) {
		d.noteHost(i, "was lost")
	}
}

// hostReturned restarts the deadline of what the host was doing: it could not do it while it was away.
func (d *draft) hostReturned(i int) {
	if !d.s.Hosts[i].Lost {
		return
	}
	h := d.host(i)
	h.Lost, h.LostSince = false, time.Time{}
	if h.Phase == ActivatingHost || h.Phase == RevertingHost {
		h.Since = d.now
	}
	if i < d.s.Cohort(d.s.Step) {
		d.noteHost(i, "returned")
	}
}
