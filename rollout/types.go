package rollout

import (
	"time"

	"github.com/murmuration/murmuration/dial"
)

// Plan is what a rollout intends, frozen when it starts. Everything in it is data: durations are resolved,
// hosts are already in cohort order (fleet.Order), budgets are already numbers.
type Plan struct {
	ID      string `json:"id"` // UUIDv7
	Service string `json:"service"`
	Release string `json:"release"`
	// Stable is the service's stable release when the rollout was made; "" for a first release. It is what
	// an untouched host runs and where a host with no Previous of its own goes back to.
	Stable string     `json:"stable,omitempty"`
	Hosts  []Host     `json:"hosts"`
	Steps  []Widening `json:"steps"`
	Limits Limits     `json:"limits"`
	// Instant marks a way back: one step with every host, no gate, no bake, no verdict.
	Instant bool `json:"instant,omitempty"`
	// NeedVerdict makes every step with a bake wait for Pass from the judge. Without it health decides.
	NeedVerdict bool   `json:"need_verdict,omitempty"`
	By          string `json:"by"`
	Reason      string `json:"reason,omitempty"`
	// RackBudgets narrows Limits.MaxUnavailablePerRack for single racks, by [Host.Place]. It is set when the
	// limit was given as a share and racks differ in size.
	RackBudgets map[string]int `json:"rack_budgets,omitempty"`
}

// Host is one host of a plan.
type Host struct {
	ID string `json:"id"`
	// Name is what people call it; reasons and the timeline use it. "" means the ID.
	Name string `json:"name,omitempty"`
	Rack string `json:"rack,omitempty"`
	DC   string `json:"dc,omitempty"`
	// Previous is the release that was active on the host when the rollout was made, "" if none.
	Previous string `json:"previous,omitempty"`
}

// Place names the host's rack in its data centre as "dc/rack": two data centres may both have a rack "r1".
func (h Host) Place() string { return h.DC + "/" + h.Rack }

// Widening is one step of a plan, which widens the cohort: the first Hosts of the plan, or the Dial's share of them, whichever
// is set; at least one host, never fewer than the step before.
type Widening struct {
	Hosts int       `json:"hosts,omitempty"`
	Dial  dial.Dial `json:"dial,omitempty"`
	// Bake is the least time the step is watched, MaxBake the most when a verdict is needed.
	Bake    time.Duration `json:"bake,omitempty"`
	MaxBake time.Duration `json:"max_bake,omitempty"`
	Manual  bool          `json:"manual,omitempty"`
}

// Limits bound what a rollout may do. Counts are hosts.
type Limits struct {
	MaxUnavailable        int           `json:"max_unavailable"`
	MaxUnavailablePerRack int           `json:"max_unavailable_per_rack"`
	AcrossRacks           bool          `json:"across_racks,omitempty"`
	AcrossDCs             bool          `json:"across_dcs,omitempty"`
	DCBake                time.Duration `json:"dc_bake,omitempty"`
	FirstDCBake           time.Duration `json:"first_dc_bake,omitempty"`
	MinHealthy            time.Duration `json:"min_healthy"`
	HealthyDeadline       time.Duration `json:"healthy_deadline"`
	ProgressDeadline      time.Duration `json:"progress_deadline"`
	StageDeadline         time.Duration `json:"stage_deadline"`
	MaxFailures           int           `json:"max_failures,omitempty"`
	NoAutoRollback        bool          `json:"no_auto_rollback,omitempty"`
}

// Phase is where a rollout is.
type Phase string

// The phases. A terminal one (see [Phase.Terminal]) frees the service for the next rollout.
const (
	Pending     Phase = "pending"      // queued behind another rollout, or waiting for the gate before it starts
	Staging     Phase = "staging"      // every host fetches; nothing changes on any
	Activating  Phase = "activating"   // hosts of the current step switch, in waves
	Baking      Phase = "baking"       // the step is complete and is being watched
	Paused      Phase = "paused"       // a person, a manual step or the emergency stop holds it
	Holding     Phase = "holding"      // inconclusive: no verdict in time, gate not open, or budget used up
	Completing  Phase = "completing"   // all hosts are done; the release is being made stable
	Complete    Phase = "complete"     // the release is the service's stable release
	RollingBack Phase = "rolling_back" // every touched host returns to what it ran
	RolledBack  Phase = "rolled_back"
	Failed      Phase = "failed"  // failed with NoAutoRollback: stays where it is until a person acts
	Aborted     Phase = "aborted" // stopped in place by a person; touched hosts stay as they are
)

// Cause is what a Paused or Holding rollout waits for.
type Cause string

// The causes. The first three pause and need a person; the others hold and end by themselves.
const (
	CausePerson  Cause = "person"  // paused by PauseAsked
	CauseManual  Cause = "manual"  // the step is done and waits for PromoteAsked
	CauseStop    Cause = "stop"    // the emergency stop
	CauseGate    Cause = "gate"    // the gate is not open
	CauseBudget  Cause = "budget"  // too many hosts are unavailable, or a whole rack is
	CauseLost    Cause = "lost"    // no host of the step can be reached
	CauseVerdict Cause = "verdict" // the judge is inconclusive
)

// HostPhase is where one host of a rollout is.
type HostPhase string

// The phases of a host. Touched ones (from ActivatingHost on) go back when the rollout does.
const (
	WaitingHost      HostPhase = "waiting" // not told anything yet, or staging not begun
	StagingHost      HostPhase = "staging"
	StagedHost       HostPhase = "staged"
	StageFailedHost  HostPhase = "stage_failed" // listed as a straggler; retried by the agent
	ActivatingHost   HostPhase = "activating"
	ActiveHost       HostPhase = "active" // healthy on the release; settled after Limits.MinHealthy
	FailedHost       HostPhase = "failed" // the release failed on it
	RevertingHost    HostPhase = "reverting"
	RevertedHost     HostPhase = "reverted"
	RevertFailedHost HostPhase = "revert_failed"
)

// HostState is the rollout's knowledge of one host.
type HostState struct {
	Phase HostPhase `json:"phase"`
	// Since is when Phase was entered.
	Since time.Time `json:"since"`
	// Lost is set while the host's session is gone. A lost host counts against the budget, not as a failure.
	Lost   bool   `json:"lost,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Gone is set when the host left the fleet; nothing waits for it any more.
	Gone bool `json:"gone,omitempty"`
	// LostSince is when Lost was set.
	LostSince time.Time `json:"lost_since,omitzero"`
	// Running is the release the host last reported healthy in this rollout; "" when it reported none or
	// its last report was a failure.
	Running string `json:"running,omitempty"`
	// Failures is how often the release failed on the host.
	Failures int `json:"failures,omitempty"`
}

// State is everything a rollout is, as stored. Step is its only writer. It is a value: Step never
// changes the State it was given.
type State struct {
	Plan  Plan  `json:"plan"`
	Phase Phase `json:"phase"`
	// Version counts the events that changed this state. It orders what agents are told.
	Version uint64 `json:"version"`
	// Step is the index of the current step in Plan.Steps.
	Step int `json:"step"`
	// Hosts is parallel to Plan.Hosts.
	Hosts []HostState `json:"hosts"`
	// Slot is set once SlotGranted was heard.
	Slot bool `json:"slot,omitempty"`
	// StepSince is when the current step's first hosts were allowed to move, zero while the step waits for
	// the gate. BakeSince is when its bake began, zero before.
	StepSince time.Time `json:"step_since,omitzero"`
	BakeSince time.Time `json:"bake_since,omitzero"`
	// Since is when Phase was entered; Progress when a host last moved forward.
	Since    time.Time `json:"since"`
	Progress time.Time `json:"progress"`
	// Resume is the phase a Paused or Holding rollout returns to.
	Resume Phase `json:"resume,omitempty"`
	// Cause says what a Paused or Holding rollout waits for; "" in every other phase.
	Cause Cause `json:"cause,omitempty"`
	// Auto is set when the rollout failed by itself rather than being rolled back by a person: the service
	// is locked when the way back ends.
	Auto bool `json:"auto,omitempty"`
	// Reason says in words why the phase is what it is.
	Reason string `json:"reason,omitempty"`
	Gate   Gate   `json:"gate"`
	// Verdict is the last verdict on the current step, VerdictReason the judge's words for it.
	Verdict       Verdict `json:"verdict,omitempty"`
	VerdictReason string  `json:"verdict_reason,omitempty"`
	// Outbox holds the effects decided but not confirmed by EffectDone, oldest first. The loop stores the
	// state first, then performs them; a new leader performs what it finds here.
	Outbox []Effect `json:"outbox,omitempty"`
	// Timeline is what happened, oldest first, bounded to the last 500 entries.
	Timeline []Entry `json:"timeline,omitempty"`
}

// Entry is one line of a rollout's timeline.
type Entry struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"` // for example "phase", "host", "verdict", "gate", "command"
	Host string    `json:"host,omitempty"`
	By   string    `json:"by,omitempty"`
	Text string    `json:"text"`
}

// Gate is the last decision heard from the gate. The zero value is unknown, which counts as closed.
type Gate struct {
	Decision GateDecision `json:"decision,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	At       time.Time    `json:"at,omitzero"`
}

// GateDecision is open, closed or unknown ("").
type GateDecision string

// The decisions of the gate.
const (
	GateUnknown GateDecision = ""
	GateOpen    GateDecision = "open"
	GateClosed  GateDecision = "closed"
)

// Verdict is the judge's word on a step; "" while it has none.
type Verdict string

// The verdicts. Pass needs evidence: silence is never a Pass.
const (
	VerdictNone Verdict = ""
	Pass        Verdict = "pass"
	Fail        Verdict = "fail"
	Hold        Verdict = "hold"
)

// Target is what one host should have of the service. It is level-triggered: an agent that was away is sent
// the same thing again and needs no history.
type Target struct {
	// Stage lists releases to have on disk, ready to activate. It includes Active.
	Stage []string `json:"stage,omitempty"`
	// Active is the release to run; "" means leave what is there.
	Active string `json:"active,omitempty"`
	// WayBack marks a return to an earlier release: it is obeyed during an emergency stop.
	WayBack bool `json:"way_back,omitempty"`
}
