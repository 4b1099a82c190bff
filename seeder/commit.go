package seeder

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

// kick starts a commit when there is something to commit and none is under way.
func (r *reign) kick(b *box) {
	if b.committing || len(b.queue) == 0 || time.Now().Before(b.retryAt) {
		return
	}
	b.queue = slices.DeleteFunc(b.queue, func(p pending) bool { return p.cmd != nil && p.cmd.ctx.Err() != nil })
	took := b.queue
	b.queue = nil
	if len(took) == 0 {
		return
	}
	next, acts, refused := decide(b.rec.State, took)
	var kept []pending
	for i, p := range took {
		if err := refused[i]; err != nil {
			p.cmd.answer(b.rec, err)
			continue
		}
		kept = append(kept, p)
	}
	took = kept
	b.wind(&next, latest(took))
	if next.Version == b.rec.State.Version {
		for _, p := range took {
			if p.cmd != nil {
				p.cmd.answer(b.rec, nil)
			}
		}
		r.dropIfOver(b)
		return
	}
	r.commit(b, took, next, acts)
}

// latest is when the last of some events happened.
func latest(events []pending) time.Time {
	var at time.Time
	for _, p := range events {
		if p.at.After(at) {
			at = p.at
		}
	}
	return at
}

// wind sets the timer of a rollout after events up to now.
func (b *box) wind(s *rollout.State, now time.Time) {
	if at, ok := s.NextTimer(now); ok {
		b.timer = at
	} else {
		b.timer = time.Time{}
	}
}

// decide lets the events happen. Commands happen one by one, so that a refusal reaches who gave it; all else
// in runs. Refused maps places in took to why.
func decide(s rollout.State, took []pending) (next rollout.State, acts []auditedAct, refused map[int]error) {
	refused = map[int]error{}
	next = s
	var run []rollout.Event
	flush := func() {
		if len(run) > 0 {
			// What StepAll skips are reports about hosts or effects this rollout no longer has.
			next, _, _ = rollout.StepAll(next, run)
			run = nil
		}
	}
	for i, p := range took {
		if p.cmd == nil {
			run = append(run, p.event)
			continue
		}
		flush()
		after, _, err := rollout.Step(next, p.event)
		if err != nil {
			refused[i] = err
			continue
		}
		next = after
		acts = append(acts, p.act)
	}
	flush()
	return next, append(acts, ownActs(s, next)...), refused
}

// ownActs are what the loop itself decided and what must be on record: that a rollout ended, or turned back.
func ownActs(before, after rollout.State) []auditedAct {
	if before.Phase == after.Phase {
		return nil
	}
	object := "rollout/" + after.Plan.Service + "/" + after.Plan.ID
	switch {
	case after.Phase == rollout.RollingBack && after.Auto:
		return []auditedAct{{caller: itself, what: "rollout.rollback", object: object, why: after.Reason, after: string(after.Phase)}}
	case after.Phase.Terminal():
		return []auditedAct{{
			caller: itself, what: "rollout.end", object: object, why: after.Reason,
			before: string(before.Phase), after: string(after.Phase),
		}}
	}
	return nil
}

// commit stores the next state and performs its effects once it is stored.
func (r *reign) commit(b *box, took []pending, next rollout.State, acts []auditedAct) {
	b.committing = true
	r.boxes[b.key()] = b
	rec := b.rec
	rec.State, rec.Term = next, r.lead.Term()
	rec.StartRev, rec.BackRev = b.fresh.start, b.fresh.back
	if next.Phase.Terminal() && rec.FinishedAt.IsZero() {
		rec.FinishedAt = time.Now().UTC()
	}
	rev := b.rev
	r.workers.goDo(func() {
		stored, newRev, err := r.write(rec, rev, acts)
		r.bring(func() { r.committed(b, took, stored, newRev, err) })
	})
}

// bring hands a result to the loop; after the reign nobody wants it.
func (r *reign) bring(f func()) {
	select {
	case r.results <- f:
	case <-r.ctx.Done():
	}
}

// errStale says that the stored rollout is another than the one the commit was made from.
var errStale = errors.New("the stored rollout is another one")

// write commits one rollout record. When the answer to an earlier try was lost, the stored record is the wanted one
// already. Errors wrap errStale when it is any other; the record returned is then the stored one.
func (r *reign) write(rec record.Rollout, rev int64, acts []auditedAct) (record.Rollout, int64, error) {
	key := record.Key{Kind: record.KindRollout, ID: rec.State.Plan.Service + "/" + rec.State.Plan.ID}
	op, err := record.PutForm(key, rec, rev)
	if err != nil {
		return rec, 0, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	newRev, err := r.auditAll(ctx, acts, op)
	if !errors.Is(err, record.ErrConflict) {
		return rec, newRev, err
	}
	stored, storedRev, getErr := record.Get[record.Rollout](ctx, r.store, key)
	switch {
	case getErr != nil:
		return rec, 0, errors.Join(err, getErr)
	case stored.Term == rec.Term && stored.State.Version == rec.State.Version:
		return stored, storedRev, nil
	case storedRev != rev:
		return stored, storedRev, errStale
	}
	return rec, 0, err
}

// auditAll commits the op with the first act in one transaction, and puts any others on record right after.
func (r *reign) auditAll(ctx context.Context, acts []auditedAct, op record.Op) (int64, error) {
	if len(acts) == 0 {
		return r.lead.Commit(ctx, op)
	}
	rev, err := acts[0].put(ctx, r.audit, r.lead, op)
	if err != nil {
		return 0, err
	}
	for _, act := range acts[1:] {
		if _, err := act.put(ctx, r.audit, r.lead); err != nil {
			r.log.Error("an act could not be put on record", "act", act.what, "object", act.object, "err", err)
		}
	}
	return rev, nil
}

// committed takes the outcome of a commit in.
func (r *reign) committed(b *box, took []pending, rec record.Rollout, rev int64, err error) {
	b.committing = false
	if errors.Is(err, errStale) {
		b.rolloutView, b.queue = newRolloutView(rec, rev, b.index), append(took, b.queue...)
		r.kick(b)
		return
	}
	if err != nil {
		r.commitFailed(b, took, err)
		return
	}
	b.retry, b.retryAt = 0, time.Time{}
	before := b.rec.State.Phase
	b.rolloutView = newRolloutView(rec, rev, b.index)
	// The revisions are known only now; they are stored with the next commit.
	if b.fresh.start == 0 && begun(&rec.State) {
		b.fresh.start = rev
	}
	if before != rollout.RollingBack && rec.State.Phase == rollout.RollingBack {
		b.fresh.back = rev
	}
	if rec.State.Phase != before {
		r.log.Info("rollout", "rollout", rec.State.Plan.ID, "service", rec.State.Plan.Service,
			"phase", rec.State.Phase, "reason", rec.State.Reason)
	}
	r.view.own(b.rolloutView)
	for _, p := range took {
		if p.cmd != nil {
			p.cmd.answer(rec, nil)
		}
	}
	r.perform(b)
	later := b.later
	b.later = nil
	if later != nil {
		r.hear(b, later)
	}
	r.kick(b)
}

// commitFailed puts the events back and tries again later. Nothing was performed.
func (r *reign) commitFailed(b *box, took []pending, err error) {
	r.log.Warn("a rollout could not be stored; nothing of it is performed until it is",
		"rollout", b.rec.State.Plan.ID, "err", err)
	b.queue = append(took, b.queue...)
	b.retry = min(max(2*b.retry, retryFirst), retryLast)
	b.retryAt = time.Now().Add(b.retry)
}

// hearLater remembers hosts to ask about once the commit under way is over.
func (b *box) hearLater(hosts map[string]struct{}) {
	if b.later == nil {
		b.later = map[string]struct{}{}
	}
	for id := range hosts {
		b.later[id] = struct{}{}
	}
}

// dropIfOver lets go of a rollout that has ended and has nothing left to do.
func (r *reign) dropIfOver(b *box) {
	s := &b.rec.State
	if s.Phase.Terminal() && len(s.Outbox) == 0 && len(b.queue) == 0 && !b.committing {
		delete(r.boxes, b.key())
		r.over[b.key()] = b.rev
	}
}

// perform gives the effects that nobody works on yet to the hands, in order.
func (r *reign) perform(b *box) {
	var due []rollout.Effect
	known := b.performing
	b.performing = make(map[string]bool, len(b.rec.State.Outbox))
	for _, e := range b.rec.State.Outbox {
		b.performing[e.Key] = true
		if !known[e.Key] {
			due = append(due, e)
		}
	}
	r.dropIfOver(b)
	if len(due) == 0 {
		return
	}
	rec := b.rec
	for _, lane := range lanes(due) {
		r.workers.inLane(b.key()+lane.name, func() {
			for _, e := range lane.effects {
				answer, done := r.hands.perform(r.ctx, r.lead, &rec, e)
				if !done {
					return
				}
				r.bring(func() { r.performed(b, e.Key, answer) })
			}
		})
	}
}

// performed confirms an effect, and brings in what it answered.
func (r *reign) performed(b *box, key string, answer rollout.Event) {
	if answer != nil {
		b.add(func(rollout.At) rollout.Event { return answer })
	}
	b.add(func(at rollout.At) rollout.Event { return rollout.EffectDone{At: at, Key: key} })
	r.kick(b)
}
