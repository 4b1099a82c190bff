package rollout

import "iter"

// Target is what a host should have of the service while this rollout is its newest; false if the host is not,
// or no longer, part of the plan. It depends on the state alone. A terminal rollout's targets hold until the
// service's next rollout begins.
func (s State) Target(host string) (Target, bool) {
	i := s.Plan.indexOf(host)
	if i < 0 || s.Hosts[i].Gone {
		return Target{}, false
	}
	return s.target(i), true
}

// Targets yields the target of every host that is part of the rollout, in plan order. It costs far less than
// a Target for each.
func (s State) Targets() iter.Seq2[string, Target] {
	return func(yield func(string, Target) bool) {
		for i, h := range s.Plan.Hosts {
			if !s.Hosts[i].Gone && !yield(h.ID, s.target(i)) {
				return
			}
		}
	}
}

// target decides for host i. Hosts that were never touched keep running what they run, and carry the release
// only while it may still reach them.
func (s *State) target(i int) Target {
	next, home := s.Plan.Release, s.Plan.home(i)
	switch s.Hosts[i].Phase {
	case ActivatingHost, ActiveHost:
		return Target{Active: next, Stage: stage(next, home), WayBack: s.Plan.Instant}
	case RevertingHost, RevertedHost, RevertFailedHost:
		return Target{Active: home, Stage: stage(home), WayBack: home != ""}
	case FailedHost:
		if !s.Plan.Instant && s.Phase != Complete {
			return Target{Active: home, Stage: s.carried(home), WayBack: home != ""}
		}
		return Target{Active: next, Stage: stage(next, home), WayBack: s.Plan.Instant}
	}
	if s.Phase == Complete {
		return Target{Active: next, Stage: stage(next, home), WayBack: s.Plan.Instant}
	}
	return Target{Active: home, Stage: s.carried(home)}
}

// carried is what an untouched or failed host keeps on disk: the release too, from staging on until it can no
// longer get there.
func (s *State) carried(home string) []string {
	phase := s.Phase
	if s.Resume != "" {
		phase = s.Resume
	}
	switch phase {
	case Staging, Activating, Baking, Completing:
		return stage(home, s.Plan.Release)
	}
	return stage(home)
}

// stage lists releases once each, without empty ones.
func stage(releases ...string) []string {
	var list []string
	for i, r := range releases {
		if r != "" && (i == 0 || r != releases[0]) {
			list = append(list, r)
		}
	}
	return list
}

// Counts is how many hosts of a rollout are in which condition. Hosts that left the fleet are not counted.
type Counts struct {
	Total      int `json:"total"`
	Staged     int `json:"staged"` // staged or further
	Activating int `json:"activating"`
	Active     int `json:"active"`
	Failed     int `json:"failed"` // the release, or the way back
	Lost       int `json:"lost"`
	Reverting  int `json:"reverting"`
	Reverted   int `json:"reverted"`
	Stragglers int `json:"stragglers"` // could not stage
}

// Counts counts the hosts.
func (s State) Counts() Counts {
	var c Counts
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if h.Gone {
			continue
		}
		c.Total++
		if h.Lost {
			c.Lost++
		}
		if h.Phase == StagedHost || h.Phase.Touched() {
			c.Staged++
		}
		switch h.Phase {
		case StageFailedHost:
			c.Stragglers++
		case ActivatingHost:
			c.Activating++
		case ActiveHost:
			c.Active++
		case FailedHost, RevertFailedHost:
			c.Failed++
		case RevertingHost:
			c.Reverting++
		case RevertedHost:
			c.Reverted++
		}
	}
	return c
}
