package seeder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	"github.com/murmuration/murmuration/rollout"
)

// start asks the loop to begin a rollout, or to queue it behind the one that is active.
func (l *loop) start(ctx context.Context, plan rollout.Plan, selector, requestID string, act auditedAct) (record.Rollout, error) {
	return l.ask(ctx, func(r *reign, c *command) {
		r.workers.goDo(func() {
			rec, rev, err := r.create(ctx, plan, selector, requestID, act)
			if err == nil {
				v := newRolloutView(rec, rev, nil)
				r.view.own(v)
				r.bring(func() {
					if r.boxes[v.key()] == nil && v.rev > r.over[v.key()] && !rec.State.Phase.Terminal() {
						r.adopt(v)
					}
				})
			}
			c.answer(rec, err)
		})
	})
}

// create stores a new rollout, its place in the service's queue and the request it answers, all or nothing. A
// request seen before answers with the rollout it made then.
func (r *reign) create(ctx context.Context, plan rollout.Plan, selector, requestID string, act auditedAct) (record.Rollout, int64, error) {
	for ctx.Err() == nil {
		rec, rev, err := r.createOnce(ctx, plan, selector, requestID, act)
		if !errors.Is(err, record.ErrConflict) {
			return rec, rev, err
		}
	}
	return record.Rollout{}, 0, ctx.Err()
}

func (r *reign) createOnce(ctx context.Context, plan rollout.Plan, selector, requestID string, act auditedAct) (record.Rollout, int64, error) {
	requestKey := record.Key{Kind: record.KindRequest, ID: plan.Service + "/" + digestOf(requestID)}
	if requestID != "" {
		req, _, err := record.Get[record.Request](ctx, r.store, requestKey)
		if err == nil {
			return record.Get[record.Rollout](ctx, r.store, record.Key{Kind: record.KindRollout, ID: plan.Service + "/" + req.Rollout})
		}
		if !errors.Is(err, record.ErrNotFound) {
			return record.Rollout{}, 0, err
		}
	}
	svcOp, err := r.enqueue(ctx, plan, selector)
	if err != nil {
		return record.Rollout{}, 0, err
	}
	now := time.Now()
	state, _, err := rollout.New(plan, now)
	if err != nil {
		return record.Rollout{}, 0, wire.Precondition("%w", err)
	}
	rec := record.Rollout{State: state, Term: r.lead.Term(), RequestID: requestID, CreatedAt: now.UTC()}
	rolloutOp, err := record.PutForm(record.Key{Kind: record.KindRollout, ID: plan.Service + "/" + plan.ID}, rec, 0)
	if err != nil {
		return rec, 0, err
	}
	ops := []record.Op{rolloutOp, svcOp}
	if requestID != "" {
		op, err := record.PutForm(requestKey, record.Request{Rollout: plan.ID, At: now.UTC()}, 0)
		if err != nil {
			return rec, 0, err
		}
		ops = append(ops, op)
	}
	rev, err := act.put(ctx, r.audit, r.lead, ops...)
	return rec, rev, err
}

// enqueue makes the op that puts a rollout into its service's slot or queue.
func (r *reign) enqueue(ctx context.Context, plan rollout.Plan, selector string) (record.Op, error) {
	key := record.Key{Kind: record.KindService, ID: plan.Service}
	svc, rev, err := record.Get[record.Service](ctx, r.store, key)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return record.Op{}, err
	}
	stop, _, err := record.Get[record.Stop](ctx, r.store, record.StopKey)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return record.Op{}, err
	}
	switch {
	case plan.Instant:
	case stop.Stopped:
		return record.Op{}, wire.Precondition("the fleet is stopped by %s: %s; lift the stop first", stop.By, stop.Reason)
	case svc.Lock != nil:
		return record.Op{}, wire.Precondition("service %s is locked by %s: %s; unlock it first: `murmur service unlock %s`", plan.Service, svc.Lock.By, svc.Lock.Reason, plan.Service)
	}
	if len(svc.Queue) >= maxQueue {
		return record.Op{}, wire.Precondition("%d rollouts of %s wait already", maxQueue, plan.Service)
	}
	svc.Name, svc.UpdatedAt = plan.Service, time.Now().UTC()
	if svc.Stable == "" {
		svc.Selector = selector
	}
	if svc.Active == "" {
		svc.Active = plan.ID
	} else {
		svc.Queue = append(slices.Clone(svc.Queue), plan.ID)
	}
	return record.PutForm(key, svc, rev)
}

// maxQueue bounds the rollouts that wait for one service.
const maxQueue = 20

// digestOf names a request in a record key.
func digestOf(requestID string) string {
	sum := sha256.Sum256([]byte(requestID))
	return fmt.Sprintf("%x", sum[:16])
}

// rollBack asks a rollout to go back. One that has ended takes the service's slot again first.
func (l *loop) rollBack(ctx context.Context, service, id string, act auditedAct, by, reason string) (record.Rollout, error) {
	event := func(at rollout.At) rollout.Event { return rollout.RollbackAsked{At: at, By: by, Reason: reason} }
	return l.ask(ctx, func(r *reign, c *command) {
		b := r.find(service, id)
		if b == nil {
			c.answer(record.Rollout{}, fmt.Errorf("rollout %s of %s: %w", id, service, record.ErrNotFound))
			return
		}
		if !b.rec.State.Phase.Terminal() {
			b.addFor(c, act, event)
			r.kick(b)
			return
		}
		r.workers.goDo(func() {
			err := r.claim(ctx, service, id)
			if err != nil {
				c.answer(record.Rollout{}, err)
				return
			}
			r.bring(func() {
				b.addFor(c, act, event)
				r.kick(b)
			})
		})
	})
}

// claim gives the service's slot back to a rollout that has ended.
func (r *reign) claim(ctx context.Context, service, id string) error {
	key := record.Key{Kind: record.KindService, ID: service}
	for {
		svc, rev, err := record.Get[record.Service](ctx, r.store, key)
		switch {
		case err != nil:
			return err
		case svc.Active == id:
			return nil
		case svc.Active != "":
			return wire.Precondition("rollout %s of %s is active: roll that one back", svc.Active, service)
		}
		svc.Active, svc.UpdatedAt = id, time.Now().UTC()
		op, err := record.PutForm(key, svc, rev)
		if err != nil {
			return err
		}
		if _, err = r.lead.Commit(ctx, op); !errors.Is(err, record.ErrConflict) {
			return err
		}
	}
}

// releaseSlot gives the slot of a rollout back that has ended and has nothing left to do: a leader died between
// claiming the slot for a way back and beginning it.
func (r *reign) releaseSlot(v *rolloutView) {
	r.workers.inLane(v.key()+"/record", func() {
		e := rollout.Effect{Key: v.rec.State.Plan.ID + "/orphan/" + fmt.Sprint(r.lead.Term()), Kind: rollout.FreeSlot}
		r.hands.untilDone(r.ctx, e, func(ctx context.Context) error {
			return r.hands.changeService(ctx, r.lead, &v.rec, e)
		})
	})
}
