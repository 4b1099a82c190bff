package seeder

import (
	"time"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/rollout"
)

// hostNews is everything the loop knows about one host at one moment: its report on the service, whether
// it is attached, and since when it is not.
type hostNews struct {
	report    *murmurv1.ServiceReport
	connected bool
	// away is how long the host has had no session.
	away time.Duration
	// removed says that the host is no longer in the fleet.
	removed bool
}

// freshness says which reports speak about a rollout: those that answer an order from after it began (start),
// or after its way back began (back). A failure from before is another rollout's.
type freshness struct {
	start, back int64
	// retry is the number this rollout's targets carry; an attempt made for another is another rollout's.
	retry uint64
}

// failed reports whether a report says that the release failed, in answer to an order of revision since or later.
func (f freshness) failed(rep *murmurv1.ServiceReport, release string, since int64) bool {
	return rep.GetOrder().GetRevision() >= since && isFailing(rep, release) && (rep.Retry == 0 || rep.Retry == f.retry)
}

// eventsOf turns what is known of a host into events of a rollout. It compares with the rollout's state, so it
// may be asked any number of times: what the state already says yields nothing. That makes a new leader start
// with the same question as any report.
func eventsOf(now time.Time, s *rollout.State, i int, goal string, news hostNews, lostAfter time.Duration, fresh freshness) []rollout.Event {
	at, host, st := rollout.At(now), s.Plan.Hosts[i].ID, s.Hosts[i]
	if st.Gone {
		return nil
	}
	if news.removed {
		return []rollout.Event{rollout.HostRemoved{At: at, Host: host}}
	}
	var events []rollout.Event
	switch {
	case !news.connected && !st.Lost && news.away >= lostAfter:
		events = append(events, rollout.HostLost{At: at, Host: host})
	case news.connected && st.Lost:
		events = append(events, rollout.HostReturned{At: at, Host: host})
	}
	if news.report == nil || !news.connected {
		return events
	}
	if e := stageEvent(at, s, i, news.report); e != nil {
		events = append(events, e)
	}
	if e := runEvent(at, s, i, goal, news.report, fresh); e != nil {
		events = append(events, e)
	}
	return events
}

// stageEvent is what a report says about the release being on the host's disk.
func stageEvent(at rollout.At, s *rollout.State, i int, rep *murmurv1.ServiceReport) rollout.Event {
	st := s.Hosts[i]
	switch st.Phase {
	case rollout.WaitingHost, rollout.StagingHost, rollout.StageFailedHost:
	default:
		return nil
	}
	if s.Phase == rollout.Pending {
		return nil
	}
	host := s.Plan.Hosts[i].ID
	for _, staged := range rep.Staged {
		switch {
		case staged.GetReleaseId() != s.Plan.Release:
		case staged.GetReady():
			return rollout.HostStaged{At: at, Host: host}
		case staged.GetError() != "" && (st.Phase != rollout.StageFailedHost || st.Detail != staged.GetError()):
			return rollout.HostStageFailed{At: at, Host: host, Detail: staged.GetError()}
		}
	}
	return nil
}

// stateFailed is package agent's word for a release that runs and is not well, or crashes again and again.
const stateFailed = "failed"

// runEvent is what a report says about what runs on the host. That the release runs well is true whenever it was
// said; a failure, and the way back, count only when the report answers an order that asked for them.
func runEvent(at rollout.At, s *rollout.State, i int, goal string, rep *murmurv1.ServiceReport, fresh freshness) rollout.Event {
	st, host, order := s.Hosts[i], s.Plan.Hosts[i].ID, rep.GetOrder().GetRevision()
	activated := func(release string) rollout.Event {
		return rollout.HostActivated{At: at, Host: host, Release: release}
	}
	failed := func(release string) rollout.Event {
		return rollout.HostFailed{At: at, Host: host, Release: release, Detail: failure(rep)}
	}
	switch st.Phase {
	case rollout.ActivatingHost:
		if isHealthy(rep, s.Plan.Release) {
			return activated(s.Plan.Release)
		}
		if fresh.failed(rep, s.Plan.Release, fresh.start) {
			return failed(s.Plan.Release)
		}
	case rollout.ActiveHost:
		if fresh.failed(rep, s.Plan.Release, fresh.start) {
			return failed(s.Plan.Release)
		}
	case rollout.FailedHost:
		if isHealthy(rep, goal) && st.Running != goal {
			return activated(goal)
		}
	case rollout.RevertingHost, rollout.RevertFailedHost:
		if order >= fresh.back && isHealthy(rep, goal) {
			return activated(goal)
		}
		if fresh.failed(rep, goal, fresh.back) && st.Phase == rollout.RevertingHost {
			return failed(goal)
		}
	}
	return nil
}

// isHealthy reports whether the host runs the release and is done with it.
func isHealthy(rep *murmurv1.ServiceReport, release string) bool {
	return release != "" && rep.GetStatus().GetActive() == release &&
		rep.Outcome != murmurv1.Outcome_OUTCOME_IN_PROGRESS && !isFailing(rep, release)
}

// isFailing reports whether the last attempt at the release failed, or it runs and is not well.
func isFailing(rep *murmurv1.ServiceReport, release string) bool {
	if rep.Attempted == release && rep.Outcome == murmurv1.Outcome_OUTCOME_FAILED {
		return true
	}
	return rep.GetStatus().GetActive() == release && rep.Outcome != murmurv1.Outcome_OUTCOME_IN_PROGRESS &&
		rep.GetStatus().GetState() == stateFailed
}

// failure puts a failure into words.
func failure(rep *murmurv1.ServiceReport) string {
	for _, text := range []string{rep.Error, rep.GetStatus().GetDetail(), rep.GetStatus().GetState()} {
		if text != "" {
			return text
		}
	}
	return "the agent gave no reason"
}
