package seeder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

// hands performs effects. Each may be performed again, by this leader after a lost answer or by the next one,
// and then does nothing: what changes a service's record leaves its key there, the rest is idempotent by nature
// or carries its key to whoever must tell.
type hands struct {
	log   *slog.Logger
	store record.Store
	view  *view
	gate  Gate
	judge Judge
	tell  Notifier
}

// outsideTimeout bounds one call of a gate, a judge or a notifier.
const outsideTimeout = 10 * time.Second

// lane is effects that are performed one after the other.
type lane struct {
	name    string
	effects []rollout.Effect
}

// lanes splits effects so that a slow gate or chat never delays what changes the fleet. Within a lane the
// order stays.
func lanes(effects []rollout.Effect) []lane {
	var out []lane
	for _, e := range effects {
		name := "/record"
		switch e.Kind {
		case rollout.AskGate, rollout.Observe, rollout.Tell:
			name = "/" + string(e.Kind)
		}
		i := slices.IndexFunc(out, func(l lane) bool { return l.name == name })
		if i < 0 {
			out, i = append(out, lane{name: name}), len(out)
		}
		out[i].effects = append(out[i].effects, e)
	}
	return out
}

// perform performs one effect, trying until it is done. The answer is the event it yields, if any. It reports false
// when ctx or the leadership ended first.
func (h *hands) perform(ctx context.Context, to identity.Committer, rec *record.Rollout, e rollout.Effect) (answer rollout.Event, done bool) {
	switch e.Kind {
	case rollout.AskGate:
		return h.askGate(ctx, rec), ctx.Err() == nil
	case rollout.Observe:
		return nil, h.observe(ctx, rec, e)
	case rollout.Tell:
		h.inform(ctx, rec, e)
	case rollout.SetStable, rollout.RestoreStable, rollout.LockService, rollout.FreeSlot:
		return nil, h.untilDone(ctx, e, func(ctx context.Context) error { return h.changeService(ctx, to, rec, e) })
	case rollout.Retarget:
		// Every seeder computes targets from the record that decided this, and pushes what changed.
	}
	return nil, true
}

func (h *hands) untilDone(ctx context.Context, e rollout.Effect, do func(context.Context) error) bool {
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryLast) {
		once, cancel := context.WithTimeout(ctx, storeTimeout)
		err := do(once)
		cancel()
		if err == nil {
			return true
		}
		if errors.Is(err, record.ErrNotLeader) {
			return false
		}
		h.log.Warn("an effect is tried again", "effect", e.Key, "err", err)
		sleep(ctx, wait)
	}
	return false
}

// maxApplied bounds record.Service.Applied, maxHistory record.Service.History.
const (
	maxApplied = 20
	maxHistory = 50
)

// changeService applies an effect to the service's record, once.
func (h *hands) changeService(ctx context.Context, to identity.Committer, rec *record.Rollout, e rollout.Effect) error {
	key := record.Key{Kind: record.KindService, ID: rec.State.Plan.Service}
	for {
		svc, rev, err := record.Get[record.Service](ctx, h.store, key)
		if err != nil {
			return err
		}
		if slices.Contains(svc.Applied, e.Key) {
			return nil
		}
		h.applyTo(&svc, rec, e)
		svc.Applied = append([]string{e.Key}, svc.Applied...)
		svc.Applied = svc.Applied[:min(len(svc.Applied), maxApplied)]
		svc.UpdatedAt = time.Now().UTC()
		op, err := record.PutForm(key, svc, rev)
		if err != nil {
			return err
		}
		if _, err = to.Commit(ctx, op); !errors.Is(err, record.ErrConflict) {
			return err
		}
	}
}

func (h *hands) applyTo(svc *record.Service, rec *record.Rollout, e rollout.Effect) {
	plan := &rec.State.Plan
	switch e.Kind {
	case rollout.SetStable:
		setStable(svc, plan.Release)
		if r, ok := h.view.release(plan.Service, plan.Release); ok {
			svc.Selector = r.manifest.Recipe.Selector
		}
	case rollout.RestoreStable:
		if plan.Stable != "" {
			setStable(svc, plan.Stable)
		}
	case rollout.LockService:
		if svc.Lock == nil {
			svc.Lock = &record.Lock{By: "murmur", Reason: cmp.Or(e.Text, rec.State.Reason), Since: time.Now().UTC()}
		}
	case rollout.FreeSlot:
		freeSlot(svc, rec)
	}
}

// setStable makes a release stable; the one before is what a way back goes to.
func setStable(svc *record.Service, id string) {
	if svc.Stable != id {
		svc.Previous, svc.Stable = svc.Stable, id
	}
	svc.History = slices.DeleteFunc(svc.History, func(old string) bool { return old == id })
	svc.History = append([]string{id}, svc.History...)
	svc.History = svc.History[:min(len(svc.History), maxHistory)]
}

// freeSlot gives the slot to the next rollout that waits.
func freeSlot(svc *record.Service, rec *record.Rollout) {
	id := rec.State.Plan.ID
	svc.Queue = slices.DeleteFunc(svc.Queue, func(q string) bool { return q == id })
	if svc.Active != id {
		return
	}
	if touched(&rec.State) {
		svc.Last = id
	}
	svc.Active = ""
	if len(svc.Queue) > 0 {
		svc.Active, svc.Queue = svc.Queue[0], svc.Queue[1:]
	}
}

// askGate asks the gate. One that does not answer is unknown, which counts as closed.
func (h *hands) askGate(ctx context.Context, rec *record.Rollout) rollout.Event {
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	decision, reason, err := h.gate.Decide(ctx, rec.State.Plan.Service)
	if err != nil {
		decision, reason = rollout.GateUnknown, fmt.Sprintf("the gate did not answer: %v", err)
	}
	return rollout.GateDecided{At: rollout.At(time.Now()), Decision: decision, Reason: reason}
}

func (h *hands) observe(ctx context.Context, rec *record.Rollout, e rollout.Effect) bool {
	s := &rec.State
	o := Observation{
		Key: e.Key, Rollout: s.Plan.ID, Service: s.Plan.Service, Release: s.Plan.Release, Stable: s.Plan.Stable,
		Step: s.Step, Canary: e.Hosts, Needed: s.Plan.NeedVerdict,
	}
	in := make(map[string]bool, len(e.Hosts))
	for _, id := range e.Hosts {
		in[id] = true
	}
	for i, host := range s.Plan.Hosts {
		if !in[host.ID] && s.Hosts[i].Phase != rollout.ActiveHost && !s.Hosts[i].Gone {
			o.Control = append(o.Control, host.ID)
		}
	}
	if s.Step < len(s.Plan.Steps) {
		o.Bake, o.MaxBake = s.Plan.Steps[s.Step].Bake, s.Plan.Steps[s.Step].MaxBake
	}
	return h.untilDone(ctx, e, func(ctx context.Context) error { return h.judge.Observe(ctx, o) })
}

// inform tells people. That they could not be told is logged and stops nothing.
func (h *hands) inform(ctx context.Context, rec *record.Rollout, e rollout.Effect) {
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	plan := &rec.State.Plan
	n := Notice{Key: e.Key, Service: plan.Service, Rollout: plan.ID, Release: plan.Release, Phase: rec.State.Phase, Text: e.Text}
	if err := h.tell.Tell(ctx, n); err != nil {
		h.log.Warn("people could not be told", "effect", e.Key, "text", e.Text, "err", err)
	}
}
