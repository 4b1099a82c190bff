package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

// Detail says how much of a rollout to convert.
type Detail bool

// The two amounts: lists carry no hosts and no timeline.
const (
	Brief Detail = false
	Whole Detail = true
)

// Rollout converts a stored rollout. HostName gives the name of a host for people; nil leaves names empty.
func Rollout(r record.Rollout, detail Detail, hostName func(id string) string) *murmurv1.Rollout {
	s, p := &r.State, &r.State.Plan
	cohorts := Cohorts(*p)
	out := &murmurv1.Rollout{
		Id: p.ID, Service: p.Service, Release: p.Release, Stable: p.Stable,
		Phase: string(s.Phase), Reason: s.Reason, Step: int32(s.Step), Counts: hostCounts(s),
		Gate: gateWord(s.Gate.Decision), GateReason: s.Gate.Reason, Verdict: string(s.Verdict),
		Since: Time(s.Since), CreatedAt: Time(r.CreatedAt), FinishedAt: Time(r.FinishedAt),
		By: p.By, Why: p.Reason, Version: s.Version, Instant: p.Instant, BakeUntil: bakeUntil(s),
	}
	for i, step := range p.Steps {
		out.Steps = append(out.Steps, &murmurv1.RolloutStep{
			Hosts: int32(cohorts[i]), Dial: int32(step.Dial), Bake: durationpb.New(step.Bake), Manual: step.Manual,
		})
	}
	if detail == Whole {
		out.Hosts = rolloutHosts(s, cohorts, hostName)
		out.Timeline = timeline(s.Timeline)
	}
	return out
}

// Cohorts returns, for each step of the plan, how many of its hosts the step covers.
func Cohorts(p rollout.Plan) []int {
	out := make([]int, len(p.Steps))
	for i := range out {
		out[i] = p.Cohort(i)
	}
	return out
}

func rolloutHosts(s *rollout.State, cohorts []int, hostName func(string) string) []*murmurv1.RolloutHost {
	hosts := make([]*murmurv1.RolloutHost, 0, len(s.Plan.Hosts))
	step := 0
	for i, h := range s.Plan.Hosts {
		for step < len(cohorts)-1 && i >= cohorts[step] {
			step++
		}
		ph := &murmurv1.RolloutHost{Id: h.ID, Rack: h.Rack, Dc: h.DC, Previous: h.Previous, Cohort: int32(step)}
		if hostName != nil {
			ph.Name = hostName(h.ID)
		}
		if i < len(s.Hosts) {
			st := s.Hosts[i]
			ph.Phase, ph.Lost, ph.Detail, ph.Since = string(st.Phase), st.Lost, st.Detail, Time(st.Since)
		}
		hosts = append(hosts, ph)
	}
	return hosts
}

func timeline(entries []rollout.Entry) []*murmurv1.TimelineEntry {
	out := make([]*murmurv1.TimelineEntry, 0, len(entries))
	for _, e := range entries {
		out = append(out, &murmurv1.TimelineEntry{At: Time(e.At), Kind: e.Kind, Host: e.Host, By: e.By, Text: e.Text})
	}
	return out
}

func hostCounts(s *rollout.State) *murmurv1.HostCounts {
	c := s.Counts()
	return &murmurv1.HostCounts{
		Total: int32(c.Total), Staged: int32(c.Staged), Active: int32(c.Active), Failed: int32(c.Failed),
		Lost: int32(c.Lost), Reverted: int32(c.Reverted),
	}
}

func gateWord(d rollout.GateDecision) string {
	if d == rollout.GateUnknown {
		return "unknown"
	}
	return string(d)
}

func bakeUntil(s *rollout.State) *timestamppb.Timestamp {
	if s.Phase != rollout.Baking || s.BakeSince.IsZero() || s.Step < 0 || s.Step >= len(s.Plan.Steps) {
		return nil
	}
	return timestamppb.New(s.BakeSince.Add(s.Plan.Steps[s.Step].Bake))
}

// Time converts a time; the zero time becomes an unset field.
func Time(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// ToTime is the reverse of [Time]: unset becomes the zero time. A timestamp outside protobuf's range does too.
func ToTime(t *timestamppb.Timestamp) time.Time {
	if t == nil || t.CheckValid() != nil {
		return time.Time{}
	}
	return t.AsTime()
}
