package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// What Step refuses. The state is then unchanged.
var (
	// ErrTerminal is returned for a command to a rollout that has ended.
	ErrTerminal = errors.New("the rollout has ended")
	// ErrUnknownHost is returned for a report of a host the plan does not have.
	ErrUnknownHost = errors.New("the host is not part of the rollout")
	// ErrNotNow is returned for a command that makes no sense in the present phase.
	ErrNotNow = errors.New("not possible now")
	// ErrUnknownEvent is returned for an Event that is none of this package's.
	ErrUnknownEvent = errors.New("unknown event")
)

// Terminal reports whether the phase ends a rollout, which frees the service for the next one. A complete,
// failed or aborted rollout can still be rolled back.
func (p Phase) Terminal() bool {
	switch p {
	case Complete, RolledBack, Failed, Aborted:
		return true
	}
	return false
}

// New starts a rollout of the plan: pending, waiting for its slot and for the gate. The plan is kept as it is and
// must not change any more. Errors wrap [ErrPlan].
func New(p Plan, now time.Time) (State, []Effect, error) {
	if err := p.Validate(); err != nil {
		return State{}, nil, err
	}
	now = stored(now)
	s := State{Plan: p, Phase: Pending, Hosts: make([]HostState, len(p.Hosts)), Since: now, Progress: now}
	for i := range s.Hosts {
		s.Hosts[i] = HostState{Phase: WaitingHost, Since: now}
	}
	d := newDraft(s)
	d.now, d.changed = now, true
	d.note(Entry{Kind: "command", By: p.By, Text: "asked for " + p.Release + because(p.Reason)})
	d.s.Reason = "waiting for the rollouts before it"
	if !p.Instant {
		d.emit(Effect{Kind: AskGate})
	}
	d.commit()
	return d.s, d.fresh, nil
}

// Step lets one event happen and returns the next state and the effects it adds, in order; they are also at the
// end of the next state's Outbox. An event that says nothing new returns the state as it was. After an error
// the returned state is the one given. The given state is never changed.
func Step(s State, e Event) (State, []Effect, error) {
	d := newDraft(s)
	if err := d.apply(e); err != nil {
		return s, nil, err
	}
	d.advance()
	d.commit()
	return d.s, d.fresh, nil
}

// StepAll lets several events happen, in order. It differs from a [Step] for each in cost and in one way: a run of
// host reports is first recorded as a whole and then judged once, at the time of its latest, so a thousand
// reports make one version, one wave and one Retarget. Events that Step would refuse are skipped; the error
// joins what was wrong with them, and the returned state holds all the others.
func StepAll(s State, events []Event) (State, []Effect, error) {
	d := newDraft(s)
	if len(events) > 8 {
		d.indexHosts()
	}
	var errs []error
	for i, e := range events {
		if i > 0 && !(isReport(events[i-1]) && isReport(e)) {
			d.advance()
			d.commit()
		}
		if err := d.apply(e); err != nil {
			errs = append(errs, err)
		}
	}
	d.advance()
	d.commit()
	return d.s, d.fresh, errors.Join(errs...)
}

// isReport tells the events that only record what a host said.
func isReport(e Event) bool {
	switch e.(type) {
	case HostStaged, HostStageFailed, HostActivated, HostFailed, HostLost, HostReturned, HostRemoved:
		return true
	}
	return false
}

// apply records one event in the draft. It changes nothing when it returns an error.
func (d *draft) apply(e Event) error {
	if e == nil {
		return ErrUnknownEvent
	}
	if at := stored(e.when()); at.After(d.now) || !isReport(e) {
		d.now = at
	}
	if d.s.Phase.Terminal() {
		return d.applyTerminal(e)
	}
	if isReport(e) {
		return d.report(e)
	}
	switch e := e.(type) {
	case SlotGranted:
		d.slotGranted()
	case GateDecided:
		d.gateDecided(e)
	case VerdictGiven:
		d.verdictGiven(e)
	case Stopped:
		d.stop(e)
	case EffectDone:
		d.effectDone(e.Key)
	case Tick:
	default:
		return d.command(e)
	}
	return nil
}

// applyTerminal is apply for a rollout that has ended: reports and answers come too late to matter, a way back
// is still possible.
func (d *draft) applyTerminal(e Event) error {
	switch e := e.(type) {
	case EffectDone:
		d.effectDone(e.Key)
	case RollbackAsked:
		return d.rollbackAsked(e)
	case GateDecided, VerdictGiven, Stopped, Tick:
	case SlotGranted, PauseAsked, ResumeAsked, PromoteAsked, AbortAsked:
		return fmt.Errorf("%w: it is %s", ErrTerminal, d.s.Phase)
	default:
		if isReport(e) {
			_, err := d.find(hostOf(e))
			return err
		}
		return fmt.Errorf("%w: %T", ErrUnknownEvent, e)
	}
	return nil
}

// effectDone removes a confirmed effect from the outbox. Making the release stable completes the rollout.
func (d *draft) effectDone(key string) {
	i := slices.IndexFunc(d.s.Outbox, func(e Effect) bool { return e.Key == key })
	if i < 0 {
		return
	}
	done := d.s.Outbox[i]
	d.s.Outbox = slices.Delete(slices.Clone(d.s.Outbox), i, i+1)
	d.changed = true
	if done.Kind == SetStable && d.s.Phase == Completing {
		d.complete()
	}
}

// advance moves the rollout as far as it can go at this moment.
func (d *draft) advance() {
	for {
		before := d.position()
		d.round()
		if d.position() == before {
			return
		}
	}
}

// position is what a round may move; a round that leaves it alone was the last.
type position struct {
	phase, resume Phase
	cause         Cause
	step          int
}

func (d *draft) position() position {
	return position{d.s.Phase, d.s.Resume, d.s.Cause, d.s.Step}
}

// round makes the next decision: what has become overdue, whether the rollout has failed, and then what its
// phase asks for. Under the emergency stop it decides nothing.
func (d *draft) round() {
	if d.s.Phase == RollingBack {
		d.rollingBack()
		return
	}
	if d.s.Phase.Terminal() || d.s.Phase == Completing || d.s.Cause == CauseStop {
		return
	}
	d.expireHosts()
	if d.failed() {
		return
	}
	switch d.doing() {
	case Pending:
		d.pending()
	case Staging:
		d.staging()
	case Activating:
		d.activating()
	case Baking:
		d.baking()
	}
}

// doing is the phase whose work goes on: a holding rollout keeps trying what it held in, a paused one does
// nothing.
func (d *draft) doing() Phase {
	if d.s.Phase == Holding {
		return d.s.Resume
	}
	return d.s.Phase
}

// stored is a time as it comes back from a store: in UTC, without the monotonic clock.
func stored(t time.Time) time.Time { return t.Round(0).UTC() }

// because appends a reason, if there is one.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// plural renders a count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// orUnnamed names who gave a command.
func orUnnamed(by string) string { return cmp.Or(by, "someone") }
