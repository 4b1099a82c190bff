package rollout

import (
	"cmp"
	"fmt"
)

// command applies what a person asked of a rollout that has not ended.
func (d *draft) command(e Event) error {
	switch e := e.(type) {
	case PauseAsked:
		return d.pauseAsked(e)
	case ResumeAsked:
		return d.resumeAsked(e)
	case PromoteAsked:
		return d.promoteAsked(e)
	case AbortAsked:
		return d.abortAsked(e)
	case RollbackAsked:
		return d.rollbackAsked(e)
	}
	return fmt.Errorf("%w: %T", ErrUnknownEvent, e)
}

func (d *draft) notNow(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotNow, fmt.Sprintf(format, args...))
}

func (d *draft) noteCommand(by, text string) {
	d.note(Entry{Kind: "command", By: by, Text: text})
}

// unstoppable reports whether the rollout is a way back, or as good as done: pause and stop pass it by.
func (d *draft) unstoppable() bool {
	return d.s.Plan.Instant || d.s.Phase == RollingBack || d.s.Phase == Completing
}

func (d *draft) pauseAsked(e PauseAsked) error {
	if d.unstoppable() {
		return d.notNow("a way back is not paused, nor a rollout that is %s", d.s.Phase)
	}
	if d.s.Cause == CausePerson || d.s.Cause == CauseStop {
		return nil
	}
	d.noteCommand(e.By, "pause"+because(e.Reason))
	d.wait(Paused, CausePerson, "paused by "+orUnnamed(e.By)+because(e.Reason))
	return nil
}

// stop is the emergency stop. Unlike every command it is never refused: where there is nothing to stop, it
// does nothing.
func (d *draft) stop(e Stopped) {
	if d.unstoppable() || d.s.Cause == CauseStop {
		return
	}
	d.noteCommand(e.By, "emergency stop"+because(e.Reason))
	d.wait(Paused, CauseStop, "emergency stop by "+orUnnamed(e.By)+because(e.Reason))
}

// resumeAsked ends a pause, also that of the emergency stop. Hosts that were held up start their deadline again.
func (d *draft) resumeAsked(e ResumeAsked) error {
	switch {
	case d.s.Cause == CauseManual:
		return d.notNow("the step waits for promote")
	case d.s.Phase != Paused:
		return d.notNow("the rollout is %s, not paused", d.s.Phase)
	}
	if d.s.Cause == CauseStop {
		for i := range d.s.Hosts {
			if d.s.Hosts[i].Phase == ActivatingHost {
				d.host(i).Since = d.now
			}
		}
	}
	d.noteCommand(e.By, "resume")
	d.resume("resumed by " + orUnnamed(e.By))
	return nil
}

// promoteAsked ends a bake, or what a step waits for after it. The gate is asked as for any step.
func (d *draft) promoteAsked(e PromoteAsked) error {
	switch {
	case d.doing() == Baking || d.s.Cause == CauseManual:
	case d.s.Phase == Paused:
		return d.notNow("%s: resume first", d.s.Reason)
	default:
		return d.notNow("the rollout is %s: only a step that is done can be promoted", d.s.Phase)
	}
	if d.s.Verdict == Fail {
		return d.notNow("the judge says fail%s", because(d.s.VerdictReason))
	}
	text := "promote"
	if e.All {
		text = "promote to all"
		d.s.Step = max(d.s.Step, len(d.s.Plan.Steps)-2)
	}
	if verdict := cmp.Or(d.s.Verdict, "none"); d.needsVerdict() && verdict != Pass {
		text += fmt.Sprintf(" (verdict: %s)", verdict)
	}
	d.noteCommand(e.By, text)
	d.next()
	return nil
}

// abortAsked ends the rollout in place. A service left half way is locked until a person has looked at it.
func (d *draft) abortAsked(e AbortAsked) error {
	if d.s.Phase == RollingBack || d.s.Phase == Completing {
		return d.notNow("the rollout is %s", d.s.Phase)
	}
	d.noteCommand(e.By, "abort"+because(e.Reason))
	d.abort("aborted by " + orUnnamed(e.By) + because(e.Reason))
	return nil
}

func (d *draft) abort(reason string) {
	touched := 0
	for _, h := range d.s.Hosts {
		if h.Phase.Touched() && !h.Gone {
			touched++
		}
	}
	d.enter(Aborted, reason)
	d.retargetAll()
	if touched > 0 {
		d.emit(Effect{Kind: LockService, Text: d.s.Reason})
	}
	d.emit(Effect{Kind: FreeSlot})
	text := fmt.Sprintf("%s: rollout of %s %s", d.s.Plan.Service, d.s.Plan.Release, d.s.Reason)
	if touched > 0 {
		text += fmt.Sprintf("; it was on %s, which stay as they are", plural(touched, "host"))
	}
	d.tell(text)
}

// rollbackAsked is the way back, open in every phase: a rollout that has not begun is aborted instead. Asking
// again while it is under way does nothing.
func (d *draft) rollbackAsked(e RollbackAsked) error {
	text := "rolled back by " + orUnnamed(e.By) + because(e.Reason)
	switch {
	case d.s.Phase == RollingBack:
		return nil
	case d.s.Phase == RolledBack:
		return fmt.Errorf("%w: it is %s", ErrTerminal, d.s.Phase)
	case d.s.Phase == Pending || d.s.Resume == Pending:
		d.noteCommand(e.By, "roll back"+because(e.Reason))
		d.abort(text)
	default:
		d.noteCommand(e.By, "roll back"+because(e.Reason))
		d.turnBack(text, false, d.s.Phase == Complete)
	}
	return nil
}
