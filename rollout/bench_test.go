package rollout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/murmuration/murmuration/rollout"
)

// big starts a rollout on n hosts in racks of 40 and brings it to its second step, the widest.
func big(tb testing.TB, n int) (rollout.State, time.Time) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := rollout.Plan{
		ID: "R", Service: "web", Release: "r2", Stable: "r1",
		Steps: []rollout.Widening{{Hosts: 1}, {Dial: 10000}},
		Limits: rollout.Limits{
			MaxUnavailable: n / 4, MaxUnavailablePerRack: 20, AcrossRacks: true, AcrossDCs: true, MinHealthy: 10 * time.Second,
			HealthyDeadline: 5 * time.Minute, ProgressDeadline: 10 * time.Minute, StageDeadline: 10 * time.Minute,
		},
	}
	for i := range n {
		p.Hosts = append(p.Hosts, rollout.Host{
			ID: fmt.Sprintf("0199a1b2-0000-7000-8000-%012d", i), DC: fmt.Sprintf("dc%d", i%3), Rack: fmt.Sprintf("r%d", i/40),
		})
	}
	s, _, err := rollout.New(p, now)
	if err != nil {
		tb.Fatal(err)
	}
	step := func(events ...rollout.Event) {
		if s, _, err = rollout.StepAll(s, events); err != nil {
			tb.Fatal(err)
		}
	}
	at := rollout.At(now)
	open := rollout.GateDecided{At: at, Decision: rollout.GateOpen}
	step(rollout.SlotGranted{At: at}, open)
	var staged []rollout.Event
	for _, h := range p.Hosts {
		staged = append(staged, rollout.HostStaged{At: at, Host: h.ID})
	}
	step(staged...)
	step(open)
	step(rollout.HostActivated{At: at, Host: p.Hosts[0].ID, Release: "r2"})
	now = now.Add(10 * time.Second)
	step(rollout.Tick{At: rollout.At(now)})
	step(rollout.GateDecided{At: rollout.At(now), Decision: rollout.GateOpen})
	return s, now
}

// BenchmarkStep10000 is one host's report in a plan of 10,000 hosts.
func BenchmarkStep10000(b *testing.B) {
	s, now := big(b, 10_000)
	e := rollout.HostActivated{At: rollout.At(now), Host: s.Plan.Hosts[1].ID, Release: "r2"}
	for b.Loop() {
		if next, _, err := rollout.Step(s, e); err != nil || next.Version == s.Version {
			b.Fatal("the report was not taken", err)
		}
	}
}

// BenchmarkStepAll10000 is the reports of a whole wave of 2,500 hosts at once.
func BenchmarkStepAll10000(b *testing.B) {
	s, now := big(b, 10_000)
	var events []rollout.Event
	for i, h := range s.Hosts {
		if h.Phase == rollout.ActivatingHost {
			events = append(events, rollout.HostActivated{At: rollout.At(now), Host: s.Plan.Hosts[i].ID, Release: "r2"})
		}
	}
	b.ReportMetric(float64(len(events)), "reports/op")
	for b.Loop() {
		if next, _, err := rollout.StepAll(s, events); err != nil || next.Version != s.Version+1 {
			b.Fatal("the reports were not taken as one", err)
		}
	}
}

// BenchmarkTargets10000 computes what every host of 10,000 should have.
func BenchmarkTargets10000(b *testing.B) {
	s, _ := big(b, 10_000)
	for b.Loop() {
		n := 0
		for range s.Targets() {
			n++
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}

// TestBatchIsOneVersion holds StepAll to its word: what a run of reports starts is one wave, the same hosts as
// single steps would have moved by the end.
func TestBatchIsOneVersion(t *testing.T) {
	s, now := big(t, 400)
	var events []rollout.Event
	for i, h := range s.Hosts {
		if h.Phase == rollout.ActivatingHost {
			events = append(events, rollout.HostActivated{At: rollout.At(now), Host: s.Plan.Hosts[i].ID, Release: "r2"})
		}
	}
	tick := rollout.Tick{At: rollout.At(now.Add(10 * time.Second))}
	single := s
	for _, e := range append(events, tick) {
		var err error
		if single, _, err = rollout.Step(single, e); err != nil {
			t.Fatal(err)
		}
	}
	stranger := rollout.HostStaged{At: rollout.At(now), Host: "stranger"}
	batch, effects, err := rollout.StepAll(s, append(append([]rollout.Event{stranger}, events...), tick))
	if err == nil {
		t.Error("a stranger's report gave no error")
	}
	if batch.Version != s.Version+2 {
		t.Errorf("version went from %d to %d, want one for the reports and one for the tick", s.Version, batch.Version)
	}
	if len(effects) != 1 || effects[0].Kind != rollout.Retarget || len(effects[0].Hosts) != 100 {
		t.Errorf("effects %v, want one retarget of 100 hosts", effects)
	}
	for i := range batch.Hosts {
		if batch.Hosts[i] != single.Hosts[i] {
			t.Errorf("host %d is %v in the batch and %v one by one", i, batch.Hosts[i], single.Hosts[i])
		}
	}
}
