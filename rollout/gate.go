package rollout

import "cmp"

// gateDecided records the gate's decision. What it allows or stops is up to the phase.
func (d *draft) gateDecided(e GateDecided) {
	next := Gate{Decision: e.Decision, Reason: clip(e.Reason), At: d.now}
	if next.Decision != GateOpen && next.Decision != GateClosed {
		next.Decision = GateUnknown
	}
	last := d.s.Gate
	if next.Decision == last.Decision && next.Reason == last.Reason && !last.At.IsZero() {
		return
	}
	fresh := last.At.IsZero() // the answer to a question just asked: only bad news is news
	if next.Decision != last.Decision && !fresh || next.Decision != GateOpen && fresh {
		d.note(Entry{Kind: "gate", Text: cmp.Or(string(next.Decision), "unknown") + because(next.Reason)})
	}
	d.s.Gate, d.changed = next, true
}

// asking is the reason of a hold that has only just asked the gate.
const asking = "asking the gate"

// askGate forgets what the gate said before: every widening needs a decision of its own.
func (d *draft) askGate() {
	d.s.Gate = Gate{}
	d.emit(Effect{Kind: AskGate})
}

// gateReason says in words why the gate is not open. Unknown counts as closed.
func (d *draft) gateReason() string {
	switch g := d.s.Gate; {
	case g.At.IsZero():
		return asking
	case g.Decision == GateClosed:
		return "the gate is closed" + because(g.Reason)
	default:
		return "the gate is unknown, which counts as closed" + because(g.Reason)
	}
}
