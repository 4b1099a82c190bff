package rollout_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/rollout"
)

// TestSafety plays random histories and checks after every event what must hold whatever happens.
func TestSafety(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		for range rapid.IntRange(20, 50).Draw(t, "events") {
			if rapid.IntRange(0, 2).Draw(t, "steady") > 0 {
				h.work()
			} else {
				h.happen(h.draw())
			}
		}
		h.checkEnds()
	})
}

// history is a rollout and what was seen of it.
type history struct {
	t    *rapid.T
	s    rollout.State
	now  time.Time
	keys map[string]bool
	// stored is s as a store would hold it.
	stored string
}

func newHistory(t *rapid.T) *history {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s, effects, err := rollout.New(drawPlan(t), now)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	h := &history{t: t, s: s, now: now, keys: map[string]bool{}}
	h.stored = h.encode(s)
	h.checkEffects(effects)
	// Most histories get past the start, so that the waves are exercised.
	if rapid.IntRange(0, 9).Draw(t, "start") > 0 {
		h.happen(rollout.SlotGranted{At: rollout.At(now)})
		h.happen(rollout.GateDecided{At: rollout.At(now), Decision: rollout.GateOpen})
		for _, host := range s.Plan.Hosts {
			h.happen(rollout.HostStaged{At: rollout.At(now), Host: host.ID})
		}
	}
	return h
}

func drawPlan(t *rapid.T) rollout.Plan {
	n := rapid.IntRange(1, 9).Draw(t, "hosts")
	p := rollout.Plan{
		ID: "R", Service: "web", Release: "r2", Stable: rapid.SampledFrom([]string{"r1", ""}).Draw(t, "stable"),
		Instant: rapid.IntRange(0, 9).Draw(t, "instant") == 0, NeedVerdict: rapid.Bool().Draw(t, "verdicts"),
		Limits: rollout.Limits{
			MaxUnavailable:        rapid.IntRange(1, 6).Draw(t, "max"),
			MaxUnavailablePerRack: rapid.IntRange(1, 3).Draw(t, "max per rack"),
			AcrossRacks:           rapid.Bool().Draw(t, "across racks"),
			AcrossDCs:             rapid.Bool().Draw(t, "across dcs"),
			DCBake:                20 * time.Second, FirstDCBake: time.Minute, MinHealthy: 10 * time.Second,
			HealthyDeadline: 5 * time.Minute, ProgressDeadline: 10 * time.Minute, StageDeadline: 10 * time.Minute,
			MaxFailures:    rapid.IntRange(0, 2).Draw(t, "failures"),
			NoAutoRollback: rapid.IntRange(0, 4).Draw(t, "no auto") == 0,
		},
	}
	for i := range n {
		p.Hosts = append(p.Hosts, rollout.Host{
			ID: fmt.Sprintf("h%d", i), DC: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "dc"),
			Rack:     rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(t, "rack"),
			Previous: rapid.SampledFrom([]string{"r1", "r1", "r0", ""}).Draw(t, "previous"),
		})
	}
	if p.Instant {
		p.Steps = []rollout.Widening{{Hosts: n}}
		return p
	}
	for size := 1; size < n; size += rapid.IntRange(1, 4).Draw(t, "widen") {
		p.Steps = append(p.Steps, drawStep(t, size))
	}
	p.Steps = append(p.Steps, drawStep(t, n))
	return p
}

func drawStep(t *rapid.T, size int) rollout.Widening {
	bake := rapid.SampledFrom([]time.Duration{0, 30 * time.Second}).Draw(t, "bake")
	return rollout.Widening{Hosts: size, Bake: bake, MaxBake: 3 * bake, Manual: rapid.IntRange(0, 5).Draw(t, "manual") == 0}
}

// draw makes the next event. Those that move the rollout are likelier than those that end it.
func (h *history) draw() rollout.Event {
	t := h.t
	host := rapid.SampledFrom(h.s.Plan.Hosts).Draw(t, "host")
	at := rollout.At(h.now)
	release := rapid.SampledFrom([]string{"r2", "r2", "r1", "r0"}).Draw(t, "release")
	switch rapid.IntRange(0, 39).Draw(t, "kind") {
	case 0, 1, 2:
		return rollout.HostStaged{At: at, Host: host.ID}
	case 3:
		return rollout.HostStageFailed{At: at, Host: host.ID, Detail: "disk full"}
	case 4, 5, 6, 7, 8, 9:
		return rollout.HostActivated{At: at, Host: host.ID, Release: release}
	case 10, 11, 12, 13:
		return h.moving()
	case 14:
		return rollout.HostFailed{At: at, Host: host.ID, Release: release, Detail: "exit 1"}
	case 15, 16:
		return rollout.HostLost{At: at, Host: host.ID}
	case 17, 18:
		return rollout.HostReturned{At: at, Host: host.ID}
	case 19:
		return rollout.HostRemoved{At: at, Host: host.ID}
	case 20, 32, 33:
		return rollout.GateDecided{At: at, Decision: rollout.GateClosed, Reason: "burn rate"}
	case 21, 22, 23, 24:
		return rollout.GateDecided{At: at, Decision: rollout.GateOpen}
	case 25:
		return rollout.SlotGranted{At: at}
	case 26, 27:
		verdict := rapid.SampledFrom([]rollout.Verdict{rollout.Pass, rollout.Pass, rollout.Hold, rollout.Fail}).Draw(t, "verdict")
		return rollout.VerdictGiven{At: at, Step: h.s.Step, Verdict: verdict}
	case 28, 29, 30:
		return h.drawCommand(at)
	case 34:
		return h.loseRack(host.Place())
	case 31:
		if len(h.s.Outbox) > 0 {
			return rollout.EffectDone{At: at, Key: rapid.SampledFrom(h.s.Outbox).Draw(t, "effect").Key}
		}
	}
	h.now = h.now.Add(rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute, 6 * time.Minute}).Draw(t, "pass"))
	return rollout.Tick{At: rollout.At(h.now)}
}

// work is what goes right: everyone on the move succeeds, time passes, the gate is open, the judge content.
func (h *history) work() {
	for i, host := range h.s.Hosts {
		if host.Phase == rollout.ActivatingHost && !host.Lost && rapid.IntRange(0, 3).Draw(h.t, "succeeds") > 0 {
			h.happen(rollout.HostActivated{At: rollout.At(h.now), Host: h.s.Plan.Hosts[i].ID, Release: "r2"})
		}
	}
	if h.s.Cause == rollout.CauseGate {
		h.happen(rollout.GateDecided{At: rollout.At(h.now), Decision: rollout.GateOpen})
	}
	if h.s.Phase == rollout.Baking && h.s.Plan.NeedVerdict {
		h.happen(rollout.VerdictGiven{At: rollout.At(h.now), Step: h.s.Step, Verdict: rollout.Pass})
	}
	h.now = h.now.Add(5 * time.Second)
	if at, ok := h.s.NextTimer(h.now); ok && at.Before(h.now.Add(2*time.Minute)) {
		h.now = at
	}
	h.happen(rollout.Tick{At: rollout.At(h.now)})
}

// loseRack loses every host of a rack; the last is left to the caller.
func (h *history) loseRack(place string) rollout.Event {
	var last rollout.Event = rollout.Tick{At: rollout.At(h.now)}
	for _, host := range h.s.Plan.Hosts {
		if host.Place() == place {
			h.happen(last)
			last = rollout.HostLost{At: rollout.At(h.now), Host: host.ID}
		}
	}
	return last
}

// moving reports success of a host that is on the move, if there is one.
func (h *history) moving() rollout.Event {
	for i, host := range h.s.Hosts {
		if host.Phase == rollout.ActivatingHost {
			return rollout.HostActivated{At: rollout.At(h.now), Host: h.s.Plan.Hosts[i].ID, Release: "r2"}
		}
	}
	return rollout.Tick{At: rollout.At(h.now)}
}

func (h *history) drawCommand(at rollout.At) rollout.Event {
	switch rapid.IntRange(0, 11).Draw(h.t, "command") {
	case 0, 1:
		return rollout.PauseAsked{At: at, By: "bob"}
	case 2, 3, 4:
		return rollout.ResumeAsked{At: at, By: "bob"}
	case 5, 6, 7:
		return rollout.PromoteAsked{At: at, By: "bob", All: rapid.Bool().Draw(h.t, "all")}
	case 8:
		return rollout.AbortAsked{At: at, By: "bob"}
	case 9:
		return rollout.RollbackAsked{At: at, By: "bob"}
	}
	return rollout.Stopped{At: at, By: "ops"}
}

// happen steps and checks.
func (h *history) happen(e rollout.Event) {
	before, stored := h.s, h.stored
	next, effects, err := rollout.Step(before, e)
	if got := h.encode(before); got != stored {
		h.t.Fatalf("%T changed its input:\n%s", e, cmp.Diff(stored, got))
	}
	h.s, h.stored = next, h.encode(next)
	if err != nil && h.stored != stored {
		h.t.Fatalf("%T was refused (%v) and changed the state", e, err)
	}
	if changed := h.stored != stored; changed != (next.Version != before.Version) {
		h.t.Fatalf("%T: changed %v, but version went from %d to %d", e, changed, before.Version, next.Version)
	}
	if next.Version != before.Version {
		h.checkFork(before)
		h.checkRestart(stored, e, effects)
	}
	h.checkEffects(effects)
	h.checkMoves(before, e)
	h.checkFail(before)
	h.checkTerminal(before, e)
	h.checkTimer()
}

// checkFork steps twice from one state: the two next states must not write into each other.
func (h *history) checkFork(before rollout.State) {
	for _, e := range []rollout.Event{
		rollout.PauseAsked{At: rollout.At(h.now), By: "eve"},
		rollout.RollbackAsked{At: rollout.At(h.now), By: "eve"},
		rollout.HostLost{At: rollout.At(h.now), Host: "h0"},
	} {
		rollout.Step(before, e)
	}
	if got := h.encode(h.s); got != h.stored {
		h.t.Fatalf("another step from the same state changed this one's result:\n%s", cmp.Diff(h.stored, got))
	}
}

func (h *history) encode(s rollout.State) string {
	value, err := json.Marshal(s)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(value)
}

// checkRestart steps from the stored state: a new leader must decide the same.
func (h *history) checkRestart(stored string, e rollout.Event, effects []rollout.Effect) {
	var s rollout.State
	if err := json.Unmarshal([]byte(stored), &s); err != nil {
		h.t.Fatal(err)
	}
	again, againEffects, _ := rollout.StepAll(s, []rollout.Event{e})
	if got := h.encode(again); got != h.stored {
		h.t.Fatalf("%T after a restart:\n%s", e, cmp.Diff(h.stored, got))
	}
	if diff := cmp.Diff(effects, againEffects); diff != "" {
		h.t.Fatalf("%T: effects after a restart:\n%s", e, diff)
	}
}

func (h *history) checkEffects(effects []rollout.Effect) {
	if len(effects) > len(h.s.Outbox) {
		h.t.Fatalf("%d effects, %d in the outbox", len(effects), len(h.s.Outbox))
	}
	if diff := cmp.Diff(h.s.Outbox[len(h.s.Outbox)-len(effects):], append([]rollout.Effect{}, effects...)); len(effects) > 0 && diff != "" {
		h.t.Fatalf("the effects are not the end of the outbox:\n%s", diff)
	}
	for _, e := range effects {
		if h.keys[e.Key] {
			h.t.Fatalf("effect key %s twice", e.Key)
		}
		h.keys[e.Key] = true
	}
}

// checkMoves checks the hosts that began to activate.
func (h *history) checkMoves(before rollout.State, e rollout.Event) {
	if h.s.Step < before.Step {
		h.t.Fatalf("the dial went back from step %d to %d", before.Step, h.s.Step)
	}
	var moved []int
	for i := range h.s.Hosts {
		was, is := before.Hosts[i].Phase, h.s.Hosts[i].Phase
		if was.Touched() && !is.Touched() {
			h.t.Fatalf("host %d was %s and is %s", i, was, is)
		}
		if was != rollout.ActivatingHost && is == rollout.ActivatingHost {
			moved = append(moved, i)
		}
	}
	if h.s.Plan.Instant || len(moved) == 0 {
		return
	}
	if h.s.Gate.Decision != rollout.GateOpen {
		h.t.Fatalf("%T moved %v, the gate is %q", e, moved, h.s.Gate.Decision)
	}
	if h.s.Phase != rollout.Activating {
		h.t.Fatalf("%T moved %v in phase %s", e, moved, h.s.Phase)
	}
	if before.Verdict == rollout.Fail && before.Step == h.s.Step {
		h.t.Fatalf("%T moved %v after a Fail", e, moved)
	}
	for _, i := range moved {
		if i >= h.s.Cohort(h.s.Step) || h.s.Hosts[i].Lost || h.s.Hosts[i].Gone {
			h.t.Fatalf("%T moved host %d, which is outside the cohort or not there", e, i)
		}
	}
	h.checkBudgets(e)
}

// checkBudgets counts, without the core's own arithmetic, who is unavailable after hosts began to move.
func (h *history) checkBudgets(e rollout.Event) {
	all, racks, open, dcs := 0, map[string]int{}, map[string]bool{}, map[string]bool{}
	lost, live := map[string]int{}, map[string]int{}
	for i, host := range h.s.Hosts {
		at := h.s.Plan.Hosts[i].Place()
		if host.Gone {
			continue
		}
		live[at]++
		if host.Lost {
			lost[at]++
		}
		if host.Lost || host.Phase == rollout.ActivatingHost {
			all++
			racks[at]++
		}
		if !host.Lost && host.Phase == rollout.ActivatingHost {
			open[at], dcs[h.s.Plan.Hosts[i].DC] = true, true
		}
	}
	l := h.s.Plan.Limits
	if all > l.MaxUnavailable {
		h.t.Fatalf("%T: %d unavailable, %d allowed", e, all, l.MaxUnavailable)
	}
	for at, n := range racks {
		if open[at] && n > l.MaxUnavailablePerRack {
			h.t.Fatalf("%T: %d unavailable in rack %s, %d allowed", e, n, at, l.MaxUnavailablePerRack)
		}
		if !l.AcrossRacks && live[at] > 1 && lost[at] == live[at] {
			h.t.Fatalf("%T: moved hosts while rack %s is lost", e, at)
		}
	}
	if h.s.Step == 0 && len(h.s.Plan.Steps) > 1 {
		return
	}
	if !l.AcrossDCs && len(dcs) > 1 {
		h.t.Fatalf("%T: several data centres at once: %v", e, slices.Collect(maps.Keys(dcs)))
	}
	if !l.AcrossRacks && len(open) > len(dcs) {
		h.t.Fatalf("%T: several racks of a data centre at once: %v", e, slices.Collect(maps.Keys(open)))
	}
}

// checkFail: a Fail that is heard turns the rollout back at once, or when the emergency stop is lifted.
func (h *history) checkFail(before rollout.State) {
	s := h.s
	if s.Verdict != rollout.Fail || before.Phase.Terminal() || s.Cause == rollout.CauseStop {
		return
	}
	switch s.Phase {
	case rollout.RollingBack, rollout.RolledBack, rollout.Failed, rollout.Aborted:
	default:
		h.t.Fatalf("the judge said fail and the rollout is %s", s.Phase)
	}
}

// checkTerminal: nothing but a way back changes what hosts of an ended rollout are told.
func (h *history) checkTerminal(before rollout.State, e rollout.Event) {
	if _, back := e.(rollout.RollbackAsked); back || !before.Phase.Terminal() {
		return
	}
	if h.s.Phase != before.Phase {
		h.t.Fatalf("%T moved %s to %s", e, before.Phase, h.s.Phase)
	}
	if diff := cmp.Diff(maps.Collect(before.Targets()), maps.Collect(h.s.Targets())); diff != "" {
		h.t.Fatalf("%T changed targets of a rollout that is %s:\n%s", e, before.Phase, diff)
	}
}

// checkTimer: until the next timer, time alone changes nothing.
func (h *history) checkTimer() {
	next, ok := h.s.NextTimer(h.now)
	if ok && !next.After(h.now) {
		h.t.Fatalf("the next timer %s is not after now %s", next, h.now)
	}
	if !ok {
		next = h.now.Add(1000 * time.Hour)
	}
	idle, _, err := rollout.Step(h.s, rollout.Tick{At: rollout.At(next.Add(-1))})
	if err != nil || idle.Version != h.s.Version {
		h.t.Fatalf("a tick just before the next timer (%v) changed %s to %s (%v)", ok, h.s.Phase, idle.Phase, err)
	}
}

// checkEnds: a way back always ends, whoever answers or does not.
func (h *history) checkEnds() {
	s, _, _ := rollout.Step(h.s, rollout.RollbackAsked{At: rollout.At(h.now), By: "ann"})
	s, _, _ = rollout.Step(s, rollout.Tick{At: rollout.At(h.now.Add(s.Plan.Limits.HealthyDeadline))})
	if s.Phase != rollout.RolledBack && s.Phase != rollout.Aborted {
		h.t.Fatalf("a rollback asked of a rollout that is %s leaves it %s", h.s.Phase, s.Phase)
	}
	for host, target := range s.Targets() {
		if target.Active == "r2" {
			h.t.Fatalf("after the rollback host %s is still told to run the release", host)
		}
	}
}
