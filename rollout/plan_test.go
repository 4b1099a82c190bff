package rollout_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/rollout"
)

// fleetOf makes hosts with the rack sizes given.
func fleetOf(sizes ...int) []fleet.Host {
	var hosts []fleet.Host
	for rack, n := range sizes {
		for i := range n {
			hosts = append(hosts, fleet.Host{
				ID:     fmt.Sprintf("host-%d-%d", rack, i),
				Labels: map[string]string{fleet.LabelDC: "a", fleet.LabelRack: fmt.Sprintf("r%d", rack)},
			})
		}
	}
	return hosts
}

func TestNewPlanDefaults(t *testing.T) {
	hosts := fleetOf(40, 40, 8)
	p, err := rollout.NewPlan("R", "web", "r2", "r1", hosts, map[string]string{"host-0-1": "r0"},
		release.Strategy{}, rollout.Options{NeedVerdict: true, By: "ann", Reason: "new"})
	if err != nil {
		t.Fatal(err)
	}
	want := rollout.Limits{
		MaxUnavailable: 22, MaxUnavailablePerRack: 20, DCBake: time.Minute, FirstDCBake: 5 * time.Minute,
		MinHealthy: 10 * time.Second, HealthyDeadline: 5 * time.Minute, ProgressDeadline: 10 * time.Minute, StageDeadline: 10 * time.Minute,
	}
	if diff := cmp.Diff(want, p.Limits); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"a/r2": 4}, p.RackBudgets); diff != "" {
		t.Errorf("rack budgets (-want +got):\n%s", diff)
	}
	steps := []rollout.Widening{
		{Hosts: 1, Bake: 30 * time.Second, MaxBake: 10 * time.Minute},
		{Dial: 1000, Bake: time.Minute, MaxBake: 10 * time.Minute},
		{Dial: dial.Full},
	}
	if diff := cmp.Diff(steps, p.Steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	for i, h := range fleet.Order(hosts, "web", 1) {
		got := p.Hosts[i]
		if got.ID != h.ID || got.Place() != "a/"+h.Rack() || (got.Previous == "r0") != (h.ID == "host-0-1") {
			t.Fatalf("host %d is %+v, want %s", i, got, h.ID)
		}
	}
	if got, want := []int{p.Cohort(-1), p.Cohort(0), p.Cohort(1), p.Cohort(2), p.Cohort(3)}, []int{0, 1, 9, 88, 88}; !slices.Equal(got, want) {
		t.Errorf("cohorts %v, want %v", got, want)
	}
	if got, want := p.BlastRadius(2), "79 hosts in 3 racks of dc a"; got != want {
		t.Errorf("blast radius %q, want %q", got, want)
	}
}

// TestNewPlanFewHosts merges steps that do not widen, and keeps their longer bake.
func TestNewPlanFewHosts(t *testing.T) {
	p, err := rollout.NewPlan("R", "web", "r2", "", fleetOf(2), nil, release.Strategy{
		Manual: true, MaxUnavailable: "1",
	}, rollout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []rollout.Widening{{Hosts: 1, Bake: time.Minute, MaxBake: 10 * time.Minute, Manual: true}, {Dial: dial.Full}}
	if diff := cmp.Diff(want, p.Steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// TestNewPlanTaking leaves out who must not take part, and refuses to plan for nobody.
func TestNewPlanTaking(t *testing.T) {
	hosts := fleetOf(3)
	hosts[0].Cordoned, hosts[1].Drained = true, true
	for _, test := range []struct {
		instant bool
		want    int
	}{{false, 1}, {true, 2}} {
		p, err := rollout.NewPlan("R", "web", "r2", "r1", hosts, nil, release.Strategy{}, rollout.Options{Instant: test.instant, NeedVerdict: true})
		if err != nil || len(p.Hosts) != test.want || p.Instant != test.instant || p.NeedVerdict == test.instant {
			t.Errorf("instant %v: %d hosts, %v, want %d", test.instant, len(p.Hosts), err, test.want)
		}
	}
	hosts[2].Drained = true
	_, err := rollout.NewPlan("R", "web", "r2", "r1", hosts[1:], nil, release.Strategy{}, rollout.Options{})
	if !errors.Is(err, rollout.ErrPlan) {
		t.Errorf("no hosts: %v, want ErrPlan", err)
	}
	_, err = rollout.NewPlan("R", "web", "r2", "r1", fleetOf(3), nil, release.Strategy{MaxUnavailable: "many"}, rollout.Options{})
	if !errors.Is(err, rollout.ErrPlan) {
		t.Errorf("bad budget: %v, want ErrPlan", err)
	}
}

// TestNewPlanValid: every valid strategy makes a plan that New takes.
func TestNewPlanValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st := release.Strategy{
			MaxUnavailable:        rapid.SampledFrom([]string{"", "1", "3", "10%"}).Draw(t, "max"),
			MaxUnavailablePerRack: rapid.SampledFrom([]string{"", "1", "90%"}).Draw(t, "per rack"),
		}
		hosts, share := 0, 0
		for range rapid.IntRange(0, 5).Draw(t, "steps") {
			if share == 0 && rapid.Bool().Draw(t, "by hosts") {
				hosts += rapid.IntRange(1, 5).Draw(t, "more hosts")
				st.Steps = append(st.Steps, release.Step{Hosts: hosts})
			} else {
				share += rapid.IntRange(1, 2000).Draw(t, "more share")
				st.Steps = append(st.Steps, release.Step{Dial: dial.Dial(share)})
			}
		}
		fleet := fleetOf(rapid.IntRange(1, 9).Draw(t, "r0"), rapid.IntRange(0, 9).Draw(t, "r1"))
		p, err := rollout.NewPlan("R", "web", "r2", "r1", fleet, nil, st, rollout.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := rollout.New(p, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(p.Steps); i++ {
			if p.Cohort(i) <= p.Cohort(i-1) {
				t.Fatalf("step %d covers %d after %d", i, p.Cohort(i), p.Cohort(i-1))
			}
		}
	})
}

// TestRefused: what Step cannot make sense of it refuses, unchanged.
func TestRefused(t *testing.T) {
	s, now := big(t, 4)
	at := rollout.At(now)
	for _, test := range []struct {
		event rollout.Event
		want  error
	}{
		{nil, rollout.ErrUnknownEvent},
		{rollout.HostStaged{At: at, Host: "stranger"}, rollout.ErrUnknownHost},
		{rollout.ResumeAsked{At: at}, rollout.ErrNotNow},
		{rollout.PromoteAsked{At: at}, rollout.ErrNotNow},
	} {
		next, effects, err := rollout.Step(s, test.event)
		if !errors.Is(err, test.want) || effects != nil || next.Version != s.Version {
			t.Errorf("%T: %v, want %v", test.event, err, test.want)
		}
	}
	aborted, _, err := rollout.Step(s, rollout.AbortAsked{At: at})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []rollout.Event{rollout.SlotGranted{At: at}, rollout.PauseAsked{At: at}, rollout.PromoteAsked{At: at}, rollout.AbortAsked{At: at}} {
		if _, _, err := rollout.Step(aborted, e); !errors.Is(err, rollout.ErrTerminal) {
			t.Errorf("%T: %v, want ErrTerminal", e, err)
		}
	}
	if c := s.Counts(); c.Total != 4 || c.Staged != 4 || c.Active != 1 || c.Activating != 1 {
		t.Errorf("counts %+v", c)
	}
}

// TestTimelineIsBounded: hosts that come and go for ever push out their own entries, not the rollout's.
func TestTimelineIsBounded(t *testing.T) {
	s, now := big(t, 4)
	phases := func() (n int) {
		for _, e := range s.Timeline {
			if e.Kind == "phase" {
				n++
			}
		}
		return n
	}
	before := phases()
	var events []rollout.Event
	id := s.Plan.Hosts[0].ID
	for range 600 {
		events = append(events, rollout.HostLost{At: rollout.At(now), Host: id}, rollout.HostReturned{At: rollout.At(now), Host: id})
	}
	s, _, err := rollout.StepAll(s, events)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Timeline) != 500 || phases() != before {
		t.Errorf("%d entries with %d phases, want 500 with %d", len(s.Timeline), phases(), before)
	}
}
