package rollout

import "time"

// NextTimer returns the first moment after now at which a Tick can change something; false when only another
// event can. What was due at now or before is taken as dealt with, so the loop sends a Tick when it takes a
// rollout over, and asks again after every event, with the time of that event.
func (s State) NextTimer(now time.Time) (time.Time, bool) {
	t := timers{now: now}
	limits := s.Plan.Limits
	switch {
	case s.Phase == RollingBack:
		t.add(s.Since.Add(limits.HealthyDeadline))
	case s.Phase.Terminal() || s.Phase == Pending || s.Phase == Completing || s.Cause == CauseStop:
	case s.Phase == Staging:
		t.add(s.Since.Add(limits.StageDeadline))
	default:
		t.addHosts(&s)
		t.addPhase(&s)
	}
	return t.first, !t.first.IsZero()
}

// timers keeps the earliest moment after now.
type timers struct{ now, first time.Time }

func (t *timers) add(at time.Time) {
	if at.After(t.now) && (t.first.IsZero() || at.Before(t.first)) {
		t.first = at
	}
}

// addHosts adds what hosts wait for: deadlines, and settling.
func (t *timers) addHosts(s *State) {
	limits := s.Plan.Limits
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if h.Gone {
			continue
		}
		if h.Phase == ActiveHost {
			t.add(h.Since.Add(limits.MinHealthy))
		}
		if h.Lost {
			t.add(h.LostSince.Add(limits.HealthyDeadline))
		} else if h.Phase == ActivatingHost {
			t.add(h.Since.Add(limits.HealthyDeadline))
		}
	}
}

// addPhase adds what the phase waits for.
func (t *timers) addPhase(s *State) {
	doing := s.Phase
	if doing == Holding {
		doing = s.Resume
	}
	switch {
	case doing == Activating && s.Plan.Instant:
		t.add(s.StepSince.Add(s.Plan.Limits.HealthyDeadline))
	case doing == Activating && !s.StepSince.IsZero():
		t.add(s.progressDeadline())
		_, begins := s.tally(t.now).next(t.now)
		t.add(begins)
	case doing == Baking:
		step := s.Plan.Steps[s.Step]
		t.add(s.BakeSince.Add(step.Bake))
		t.add(s.BakeSince.Add(max(step.MaxBake, step.Bake)))
	}
}
