package record

import (
	"time"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/rollout"
)

// rolloutState is the stored mirror of rollout.State. A plan can have 10,000 hosts, so
// a host and its state are one object with one-letter keys and its time is a number.
type rolloutState struct {
	ID          string          `json:"id"`
	Service     string          `json:"service"`
	Release     string          `json:"release"`
	Stable      string          `json:"stable,omitempty"`
	Steps       []rolloutStep   `json:"steps,omitempty"`
	Limits      rolloutLimits   `json:"limits,omitzero"`
	Instant     bool            `json:"instant,omitempty"`
	NeedVerdict bool            `json:"need_verdict,omitempty"`
	By          string          `json:"by,omitempty"`
	PlanReason  string          `json:"plan_reason,omitempty"`
	RackBudgets map[string]int  `json:"rack_budgets,omitempty"`
	Phase       string          `json:"phase"`
	Version     uint64          `json:"version"`
	Step        int             `json:"step"`
	PlanHosts   []rolloutHost   `json:"hosts,omitempty"`
	HostStates  []hostState     `json:"host_states,omitempty"`
	Since       time.Time       `json:"since,omitzero"`
	Progress    time.Time       `json:"progress,omitzero"`
	Resume      string          `json:"resume,omitempty"`
	Reason      string          `json:"reason,omitempty"`
	Slot        bool            `json:"slot,omitempty"`
	StepSince   time.Time       `json:"step_since,omitzero"`
	BakeSince   time.Time       `json:"bake_since,omitzero"`
	Cause       string          `json:"cause,omitempty"`
	Auto        bool            `json:"auto,omitempty"`
	Gate        rolloutGate     `json:"gate,omitzero"`
	Verdict     string          `json:"verdict,omitempty"`
	VerdictWhy  string          `json:"verdict_why,omitempty"`
	Outbox      []rolloutEffect `json:"outbox,omitempty"`
	Timeline    []rolloutEntry  `json:"timeline,omitempty"`
}

// rolloutHost mirrors rollout.Host.
type rolloutHost struct {
	ID       string `json:"i"`
	Name     string `json:"n,omitempty"`
	Rack     string `json:"r,omitempty"`
	DC       string `json:"d,omitempty"`
	Previous string `json:"p,omitempty"`
}

// hostState mirrors rollout.HostState; it is parallel to the plan's hosts. Since is in nanoseconds since
// 1970, 0 for the zero time.
type hostState struct {
	Phase  string `json:"p"`
	Since  int64  `json:"s,omitempty"`
	Lost   bool   `json:"l,omitempty"`
	Detail string `json:"x,omitempty"`
	Gone   bool   `json:"g,omitempty"`
	// LostAt is LostSince in nanoseconds, Runs is Running, Fails is Failures.
	LostAt int64  `json:"t,omitempty"`
	Runs   string `json:"r,omitempty"`
	Fails  int    `json:"f,omitempty"`
}

// rolloutStep mirrors rollout.Widening. Durations are nanoseconds.
type rolloutStep struct {
	Hosts   int           `json:"hosts,omitempty"`
	Dial    uint16        `json:"dial,omitempty"`
	Bake    time.Duration `json:"bake,omitempty"`
	MaxBake time.Duration `json:"max_bake,omitempty"`
	Manual  bool          `json:"manual,omitempty"`
}

// rolloutLimits mirrors rollout.Limits. Durations are nanoseconds.
type rolloutLimits struct {
	MaxUnavailable        int           `json:"max_unavailable,omitempty"`
	MaxUnavailablePerRack int           `json:"max_unavailable_per_rack,omitempty"`
	AcrossRacks           bool          `json:"across_racks,omitempty"`
	AcrossDCs             bool          `json:"across_dcs,omitempty"`
	DCBake                time.Duration `json:"dc_bake,omitempty"`
	FirstDCBake           time.Duration `json:"first_dc_bake,omitempty"`
	MinHealthy            time.Duration `json:"min_healthy,omitempty"`
	HealthyDeadline       time.Duration `json:"healthy_deadline,omitempty"`
	ProgressDeadline      time.Duration `json:"progress_deadline,omitempty"`
	StageDeadline         time.Duration `json:"stage_deadline,omitempty"`
	MaxFailures           int           `json:"max_failures,omitempty"`
	NoAutoRollback        bool          `json:"no_auto_rollback,omitempty"`
}

// rolloutGate mirrors rollout.Gate.
type rolloutGate struct {
	Decision string    `json:"decision,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	At       time.Time `json:"at,omitzero"`
}

// rolloutEffect mirrors rollout.Effect.
type rolloutEffect struct {
	Key   string   `json:"key"`
	Kind  string   `json:"kind"`
	Hosts []string `json:"hosts,omitempty"`
	Text  string   `json:"text,omitempty"`
}

// rolloutEntry mirrors rollout.Entry.
type rolloutEntry struct {
	At   time.Time `json:"at,omitzero"`
	Kind string    `json:"kind"`
	Host string    `json:"host,omitempty"`
	By   string    `json:"by,omitempty"`
	Text string    `json:"text,omitempty"`
}

func storeState(s rollout.State) rolloutState {
	p := s.Plan
	return rolloutState{
		ID: p.ID, Service: p.Service, Release: p.Release, Stable: p.Stable,
		Steps: each(p.Steps, storeStep), Limits: rolloutLimits(p.Limits),
		Instant: p.Instant, NeedVerdict: p.NeedVerdict, By: p.By, PlanReason: p.Reason,
		RackBudgets: p.RackBudgets,
		Slot:        s.Slot, StepSince: s.StepSince.UTC(), BakeSince: s.BakeSince.UTC(), Cause: string(s.Cause), Auto: s.Auto,
		VerdictWhy: s.VerdictReason,
		Phase:      string(s.Phase), Version: s.Version, Step: s.Step,
		PlanHosts:  each(p.Hosts, func(h rollout.Host) rolloutHost { return rolloutHost(h) }),
		HostStates: each(s.Hosts, storeHostState),
		Since:      s.Since.UTC(), Progress: s.Progress.UTC(), Resume: string(s.Resume), Reason: s.Reason,
		Gate:    rolloutGate{string(s.Gate.Decision), s.Gate.Reason, s.Gate.At.UTC()},
		Verdict: string(s.Verdict), Outbox: each(s.Outbox, storeEffect),
		Timeline: each(s.Timeline, storeEntry),
	}
}

func (r rolloutState) state() rollout.State {
	return rollout.State{
		Plan: rollout.Plan{
			ID: r.ID, Service: r.Service, Release: r.Release, Stable: r.Stable,
			Hosts: each(r.PlanHosts, func(h rolloutHost) rollout.Host { return rollout.Host(h) }),
			Steps: each(r.Steps, rolloutStep.step), Limits: rollout.Limits(r.Limits),
			Instant: r.Instant, NeedVerdict: r.NeedVerdict, By: r.By, Reason: r.PlanReason,
			RackBudgets: r.RackBudgets,
		},
		Phase: rollout.Phase(r.Phase), Version: r.Version, Step: r.Step,
		Hosts: each(r.HostStates, hostState.state),
		Since: r.Since, Progress: r.Progress, Resume: rollout.Phase(r.Resume), Reason: r.Reason,
		Gate: rollout.Gate{
			Decision: rollout.GateDecision(r.Gate.Decision), Reason: r.Gate.Reason, At: r.Gate.At,
		},
		Slot: r.Slot, StepSince: r.StepSince, BakeSince: r.BakeSince, Cause: rollout.Cause(r.Cause), Auto: r.Auto,
		VerdictReason: r.VerdictWhy,
		Verdict:       rollout.Verdict(r.Verdict), Outbox: each(r.Outbox, rolloutEffect.effect),
		Timeline: each(r.Timeline, rolloutEntry.entry),
	}
}

func storeHostState(h rollout.HostState) hostState {
	stored := hostState{Phase: string(h.Phase), Lost: h.Lost, Detail: h.Detail, Gone: h.Gone, Runs: h.Running, Fails: h.Failures}
	if !h.LostSince.IsZero() {
		stored.LostAt = h.LostSince.UnixNano()
	}
	if !h.Since.IsZero() {
		stored.Since = h.Since.UnixNano()
	}
	return stored
}

func (h hostState) state() rollout.HostState {
	state := rollout.HostState{Phase: rollout.HostPhase(h.Phase), Lost: h.Lost, Detail: h.Detail, Gone: h.Gone, Running: h.Runs, Failures: h.Fails}
	if h.LostAt != 0 {
		state.LostSince = time.Unix(0, h.LostAt).UTC()
	}
	if h.Since != 0 {
		state.Since = time.Unix(0, h.Since).UTC()
	}
	return state
}

func storeStep(s rollout.Widening) rolloutStep {
	return rolloutStep{Hosts: s.Hosts, Dial: uint16(s.Dial), Bake: s.Bake, MaxBake: s.MaxBake, Manual: s.Manual}
}

func (s rolloutStep) step() rollout.Widening {
	return rollout.Widening{Hosts: s.Hosts, Dial: dial.Dial(s.Dial), Bake: s.Bake, MaxBake: s.MaxBake, Manual: s.Manual}
}

func storeEffect(e rollout.Effect) rolloutEffect {
	return rolloutEffect{Key: e.Key, Kind: string(e.Kind), Hosts: append([]string(nil), e.Hosts...), Text: e.Text}
}

func (e rolloutEffect) effect() rollout.Effect {
	return rollout.Effect{Key: e.Key, Kind: rollout.EffectKind(e.Kind), Hosts: append([]string(nil), e.Hosts...), Text: e.Text}
}

func storeEntry(e rollout.Entry) rolloutEntry {
	return rolloutEntry{At: e.At.UTC(), Kind: e.Kind, Host: e.Host, By: e.By, Text: e.Text}
}

func (e rolloutEntry) entry() rollout.Entry {
	return rollout.Entry{At: e.At, Kind: e.Kind, Host: e.Host, By: e.By, Text: e.Text}
}

// each maps a slice; nothing stays nothing.
func each[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}
