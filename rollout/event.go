package rollout

import "time"

// Event is something that happened, in the past tense. Each carries when, as data.
type Event interface{ when() time.Time }

// At is the time of an event; every event embeds it.
type At time.Time

func (a At) when() time.Time { return time.Time(a) }

// The events. Those that name a host the plan does not have are errors ([ErrUnknownHost]); a report that
// says nothing new changes nothing and is no error.
type (
	// SlotGranted says no other rollout of the service is active: this one may begin.
	SlotGranted struct{ At }
	// GateDecided brings the gate's decision. Closing it stops widening; it never stops a way back.
	GateDecided struct {
		At
		Decision GateDecision
		Reason   string
	}
	// HostStaged says the release is verified and unpacked on the host.
	HostStaged struct {
		At
		Host string
	}
	// HostStageFailed says the host could not stage; it keeps trying by itself.
	HostStageFailed struct {
		At
		Host, Detail string
	}
	// HostActivated says Release runs on the host and is healthy (after its post checks).
	HostActivated struct {
		At
		Host, Release string
	}
	// HostFailed says Release did not become, or did not stay, healthy on the host.
	HostFailed struct {
		At
		Host, Release, Detail string
	}
	// HostLost and HostReturned follow the host's session.
	HostLost struct {
		At
		Host string
	}
	HostReturned struct {
		At
		Host string
	}
	// HostRemoved says the host left the fleet.
	HostRemoved struct {
		At
		Host string
	}
	// VerdictGiven is the judge's word on the current step.
	VerdictGiven struct {
		At
		Step    int
		Verdict Verdict
		Reason  string
	}
	// The commands of people. By is who, for the record.
	PauseAsked struct {
		At
		By, Reason string
	}
	ResumeAsked struct {
		At
		By string
	}
	// PromoteAsked ends the current bake or manual wait and starts the next step; with All, every step left
	// becomes one. It overrides a missing verdict, never a Fail, and never the gate.
	PromoteAsked struct {
		At
		By  string
		All bool
	}
	AbortAsked struct {
		At
		By, Reason string
	}
	RollbackAsked struct {
		At
		By, Reason string
	}
	// Stopped is the emergency stop; the rollout stays paused until someone resumes it.
	Stopped struct {
		At
		By, Reason string
	}
	// EffectDone confirms the effect with this key.
	EffectDone struct {
		At
		Key string
	}
	// Tick lets time pass.
	Tick struct{ At }
)

// EffectKind names what an effect does.
type EffectKind string

// The effects, in the imperative. Performing one twice must do nothing the second time; the key says which.
const (
	// AskGate asks for a decision; answered by GateDecided.
	AskGate EffectKind = "ask_gate"
	// Retarget pushes the targets (see State.Target) of Hosts to their agents; all hosts when empty.
	Retarget EffectKind = "retarget"
	// Observe starts the judge on the current step, whose canaries are Hosts.
	Observe EffectKind = "observe"
	// SetStable makes the release the service's stable one.
	SetStable EffectKind = "set_stable"
	// RestoreStable makes Plan.Stable the stable release again, after a rollback of a complete rollout.
	RestoreStable EffectKind = "restore_stable"
	// LockService refuses further rollouts of the service until a person unlocks it.
	LockService EffectKind = "lock_service"
	// FreeSlot lets the next queued rollout begin.
	FreeSlot EffectKind = "free_slot"
	// Tell informs people: Text says what.
	Tell EffectKind = "tell"
)

// Effect is something to do once. Effects are performed in order.
type Effect struct {
	// Key is unique over all rollouts: "<rollout>/<version>/<kind>", with a number behind it where needed.
	Key   string     `json:"key"`
	Kind  EffectKind `json:"kind"`
	Hosts []string   `json:"hosts,omitempty"`
	Text  string     `json:"text,omitempty"`
}
